"""How the work on a guest ends: what became of its original, and what is said of a missing file."""

from __future__ import annotations

import types

import pytest

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Fate, Goal
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.endings import lost, opens, original_at
from batchdiff.image_source import ImageFormat, ImageSource

NAMES = original_names("/vm.img")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (OutgoingAt.NAMED, Fate.KEPT),
        (OutgoingAt.ASIDE, Fate.QUARANTINED),
        (OutgoingAt.DELETING, Fate.QUARANTINED),
        (OutgoingAt.GONE, Fate.GONE),
    ],
)
def test_fates(where, expected):
    aside = NAMES.at(where) if expected is Fate.QUARANTINED else None
    assert original_at(NAMES, where) == Original(expected, aside)


def test_what_stands_in_the_place_of_an_original_must_open(tmp_path):
    path = tmp_path / "vm.img"
    source = ImageSource(str(path), ImageFormat.QCOW2)
    assert not opens(source)
    path.write_bytes(b"garbage")
    assert not opens(source)
    assert opens(ImageSource(str(path), ImageFormat.RAW))


@pytest.mark.parametrize("where", list(OutgoingAt))
def test_the_message_names_what_is_lost(where):
    outgoing = types.SimpleNamespace(names=NAMES)
    incoming = types.SimpleNamespace(source=ImageSource("/vm.qcow2", ImageFormat.QCOW2))
    task = types.SimpleNamespace(guest="vm", goal=Goal.APPLY, outgoing=outgoing, incoming=incoming)
    error = lost(task, where)
    assert "/vm.qcow2" in str(error)
    if where is OutgoingAt.GONE:
        assert "/vm.img is gone" in error.what
        assert "docs/moving.md" in error.remedy
    else:
        assert NAMES.at(where) in error.remedy
        assert "`batchdiff restore PLAN --guest vm --discard-changes`" in error.remedy
