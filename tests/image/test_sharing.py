"""Shared blocks of segments, from extents by hand; tests/planning/test_reflink.py asks real filesystems."""

import os

import notation
import pytest
from oracle import source

from batchdiff.image import sharing
from batchdiff.image.contract import Segment
from batchdiff.image.fiemap import ExtentFlag, PhysicalExtent
from batchdiff.image.opening import open_image
from batchdiff.image.sharing import Placed, placed
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB

SHARED = int(ExtentFlag.SHARED)
DISK = 1 << 30


@pytest.fixture
def image(tmp_path):
    with open_image(source(notation.write_raw(tmp_path / "a.img", "1M:A"))) as image:
        yield image


@pytest.fixture
def on_disk(monkeypatch):
    """Says where a file is on its disk: (offset, length, flags), one after the other on the disk."""

    def use(*extents):
        at, found = DISK, []
        for offset, length, flags in extents:
            found.append(PhysicalExtent(offset, at, length, flags))
            at += length
        monkeypatch.setattr(
            sharing,
            "physical_extents",
            lambda fd, path, start, end, *, having: (
                each for each in found if each.logical < end and start < each.logical + each.length
            ),
        )

    return use


def segments(*parts):
    """FILE segments: guest offset, length, address in the file."""
    return [Segment(start, start + length, Origin.FILE, 0, address) for start, length, address in parts]


def found(image, *parts):
    device = os.fstat(image.layers[0].fd).st_dev
    everything = placed(image, segments(*parts))
    assert {each.device for each in everything} <= {device}
    return [(each.start, each.end, each.physical - DISK) for each in everything]


def test_an_extent_that_several_segments_share(image, on_disk):
    """Clusters that follow each other in the file, and not in the guest: each has its part of the one extent."""
    on_disk((0, 256 * KIB, SHARED))
    parts = [(512 * KIB, 64 * KIB, 0), (0, 64 * KIB, 64 * KIB), (256 * KIB, 64 * KIB, 192 * KIB)]
    assert found(image, *parts) == [
        (0, 64 * KIB, 64 * KIB),
        (256 * KIB, 320 * KIB, 192 * KIB),
        (512 * KIB, 576 * KIB, 0),
    ]


def test_a_segment_in_several_extents(image, on_disk):
    on_disk((0, 8 * KIB, SHARED), (8 * KIB, 8 * KIB, SHARED | ExtentFlag.UNWRITTEN), (16 * KIB, 64 * KIB, SHARED))
    assert found(image, (100 * KIB, 60 * KIB, 4 * KIB)) == [
        (100 * KIB, 104 * KIB, 4 * KIB),
        (112 * KIB, 160 * KIB, 16 * KIB),
    ]


def test_a_segment_between_two_extents_has_no_part_of_them(image, on_disk):
    on_disk((0, 4 * KIB, SHARED), (64 * KIB, 4 * KIB, SHARED))
    assert found(image, (0, 8 * KIB, 8 * KIB), (32 * KIB, 4 * KIB, 64 * KIB)) == [(32 * KIB, 36 * KIB, 4 * KIB)]


def test_the_same_blocks_elsewhere_in_the_guest_are_not_shared_bytes():
    template = [Placed(0, 64, 1, 1000), Placed(64, 128, 1, 5000), Placed(128, 192, 2, 7000)]
    guest = [Placed(0, 32, 1, 1000), Placed(64, 128, 1, 5001), Placed(128, 192, 1, 7000)]
    assert sharing.shared(template, guest) == [(0, 32)]
