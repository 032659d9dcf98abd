"""An image that QEMU does not open is refused when it is planned, with what to do; the other guests go on."""

from __future__ import annotations

import struct
from dataclasses import replace

import notation
import pytest
from oracle import source
from patching import Patched
from small_fleet import manifest

from batchdiff.choices import Loss, Verdict
from batchdiff.errors import ImageError
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.planning.planner import make_plan

BITMAPS = 0x23852875
NOT_OPENED = "QEMU cannot open it either: restore it from a backup."


def leave_bytes_over(image):
    start = image["header_length"]
    image.put(start, struct.pack(">II4s1s", 0x6803F857, 0, b"\1234", b"x"))
    image["backing_offset"], image["backing_size"] = start + 12, 1


def misalign_snapshots(image):
    image["snapshots_offset"] = 1


def break_bitmaps(image):
    at = image.data.index(struct.pack(">II", BITMAPS, 24))
    image.put(image[at + 24] + 16, b"\2")


def blow_up_snapshots(image):
    image.put(image["snapshots_offset"] + 36, struct.pack(">I", 1025))


FAULTS = {
    "left-over": (leave_bytes_over, "too small for another one", NOT_OPENED),
    "snapshots-offset": (misalign_snapshots, "snapshot table at 1", NOT_OPENED),
    "bitmaps": (break_bitmaps, "bitmap directory is broken", NOT_OPENED),
    "snapshots": (
        blow_up_snapshots,
        "1025 bytes of extra data",
        "Repair a copy of it with `qemu-img check",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = notation.write_qcow2(tmp_path_factory.mktemp("sound") / "a.qcow2", "128k:A 64k:B")
    notation.run("qemu-img", "snapshot", "-c", "one", str(path))
    notation.run("qemu-img", "bitmap", "--add", str(path), "one")
    return path


def fleet(folder, template, *guests):
    entries = [GuestEntry(path.name, source(path), f"{path}.thin", OverlayOptions()) for path in guests]
    losses = frozenset(Loss)
    return replace(manifest(folder, ()), template=source(template), guests=tuple(entries), allow_loss=losses)


@pytest.mark.parametrize(("damage", "why", "remedy"), FAULTS.values(), ids=FAULTS)
def test_it_is_refused(tmp_path, sound, damage, why, remedy):
    good = notation.write_raw(tmp_path / "good.raw", "192k:A")
    image = Patched(sound)
    damage(image)
    bad = image.save(tmp_path / "bad.qcow2")
    with pytest.raises(ImageError, match=why) as caught:
        make_plan(fleet(tmp_path, bad, good), jobs=1)
    assert str(bad) in str(caught.value)
    assert remedy in caught.value.remedy

    other = notation.write_raw(tmp_path / "other.raw", "128k:A 64k:C")
    found, fine = make_plan(fleet(tmp_path, good, bad, other), jobs=1).guests
    assert found.verdict is Verdict.REFUSE
    assert str(bad) in found.reason
    assert why in found.reason
    assert remedy in found.reason
    assert fine.verdict is Verdict.CONVERT
