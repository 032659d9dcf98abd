"""What is said of a file that is missing."""

from __future__ import annotations

import types

import pytest

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Goal
from batchdiff.applying.swap.refusals import lost
from batchdiff.files.fingerprint import NO_FILE
from batchdiff.image_source import ImageFormat, ImageSource

NAMES = original_names("/vm.img")


@pytest.mark.parametrize("where", list(OutgoingAt))
def test_what_is_lost_is_told(where):
    outgoing = types.SimpleNamespace(names=NAMES)
    incoming = types.SimpleNamespace(source=ImageSource("/vm.qcow2", ImageFormat.QCOW2))
    original = types.SimpleNamespace(fingerprints=(NO_FILE,))
    task = types.SimpleNamespace(
        guest="vm", goal=Goal.APPLY, outgoing=outgoing, incoming=incoming, original=original
    )
    error = lost(task, where)
    assert "/vm.qcow2" in str(error)
    if where is OutgoingAt.GONE:
        assert "/vm.img is gone" in error.what
        assert "docs/moving.md" in error.remedy
    else:
        assert NAMES.at(where) in error.remedy
        assert "`batchdiff restore PLAN --guest vm --discard-changes`" in error.remedy
