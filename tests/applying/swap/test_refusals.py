"""What is said of a file that is missing."""

from __future__ import annotations

import types

import pytest

from batchdiff.applying.guests.file_names import original_names, overlay_names
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Goal, History
from batchdiff.applying.swap.refusals import another_file, lost, not_the_original, two_disks
from batchdiff.files.fingerprint import NO_FILE, Fingerprint
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.plan import PlannedImage
from batchdiff.units import MIB

NAMES = original_names("/vm.img")
FILE = Fingerprint(1, 2, MIB, 3, 4)


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


def planned(tmp_path, *fingerprints):
    parts = tuple(str(tmp_path / f"part{number}") for number in range(len(fingerprints) - 1))
    return PlannedImage(ImageSource("/vm.img", ImageFormat.RAW, other_files=parts), MIB, fingerprints)


def test_an_original_without_one_of_its_parts_is_still_the_original(tmp_path):
    missing = str(not_the_original("vm", "/vm.img", "/vm.qcow2", planned(tmp_path, FILE, FILE)))
    changed = f"its original /vm.img has changed since it was planned: {tmp_path / 'part0'}"
    assert f"{changed}: it is gone, or cannot be examined." in missing
    assert missing.endswith("move the original away and run `batchdiff restore PLAN --guest vm`.")
    other = str(not_the_original("vm", "/vm.img", "/vm.qcow2", planned(tmp_path, FILE)))
    assert "/vm.img is not its original, or was written to after the conversion" in other


def test_another_file_in_the_place_of_an_overlay():
    outgoing = types.SimpleNamespace(names=overlay_names("/vm.qcow2"))
    task = types.SimpleNamespace(guest="vm", goal=Goal.RESTORE, outgoing=outgoing)
    assert str(another_file(task, "/vm.qcow2.batchdiff-overlay", History())) == (
        "another file is at /vm.qcow2: the overlay that was there is now /vm.qcow2.batchdiff-overlay. Compare the"
        " two and move away the one that you do not need, then run the same command again."
    )


def test_a_block_device_is_not_moved_away(tmp_path):
    device = Fingerprint(1, 0, MIB, 0, 0)
    said = str(two_disks("vm", "/vm.qcow2", planned(tmp_path, device)))
    assert said.endswith("To keep the overlay's content, leave the guest as it is.")
    said = str(two_disks("vm", "/vm.qcow2", planned(tmp_path, FILE)))
    assert said.endswith("move /vm.img away, then run the same command again.")
