"""Shared blocks of segments, from extents by hand; tests/planning/test_reflink.py asks real filesystems."""

import itertools
import os

import notation
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import source

from batchdiff.image.layer import Segment
from batchdiff.image.open import open_image
from batchdiff.image.storage import shared_blocks
from batchdiff.image.storage.shared_blocks import (
    SharedExtent,
    runs_within,
    shared_by_both,
    shared_bytes,
    shared_extents,
)
from batchdiff.linux.fiemap import ExtentFlag, ExtentTable, PhysicalExtent
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
            shared_blocks,
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
    everything = shared_extents(image, segments(*parts))
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
    template = [SharedExtent(0, 64, 1, 1000), SharedExtent(64, 128, 1, 5000), SharedExtent(128, 192, 2, 7000)]
    guest = [SharedExtent(0, 32, 1, 1000), SharedExtent(64, 128, 1, 5001), SharedExtent(128, 192, 1, 7000)]
    assert shared_blocks.common_ranges(template, guest) == [(0, 32)]


@st.composite
def tables(draw):
    """A file of a few extents, some of which others share, on a disk so small that two files often meet there."""
    at, extents = 0, []
    for _ in range(draw(st.integers(0, 12))):
        at += draw(st.integers(0, 3))
        length = draw(st.integers(1, 6))
        where = draw(st.sampled_from([at, at, at + 1, 50 + at]))
        flags = draw(st.sampled_from([SHARED, SHARED, SHARED | ExtentFlag.LAST, 0, SHARED | ExtentFlag.UNWRITTEN]))
        extents.append(PhysicalExtent(at, where, length, flags))
        at += length
    return extents


def table_of(extents):
    columns = np.array(extents, dtype=np.int64).reshape(-1, 4).T
    return ExtentTable(*columns[:3], columns[3].astype(np.uint32))


def pairs(runs):
    return list(zip(*(offsets.tolist() for offsets in runs), strict=True))


def bytes_of(ranges):
    return {byte for start, end in ranges for byte in range(start, end)}


def by_hand(extents):
    """As :func:`placed` finds them for one segment that is all of the file."""
    fit = [each for each in extents if each.flags & SHARED and not each.flags & ExtentFlag.UNWRITTEN]
    return [SharedExtent(each.logical, each.logical + each.length, 1, each.physical) for each in fit]


@given(tables(), tables())
def test_whole_images_share_what_their_segments_do(template, guest):
    runs = pairs(shared_by_both(table_of(template), table_of(guest)))
    assert bytes_of(runs) == bytes_of(shared_blocks.common_ranges(by_hand(template), by_hand(guest)))
    assert all(start < end for start, end in runs)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(runs))


@given(tables(), st.integers(0, 40))
def test_shared_bytes_end_with_the_image(extents, size):
    found = pairs(shared_bytes(table_of(extents), size))
    expected = bytes_of((each.start, each.end) for each in by_hand(extents))
    assert bytes_of(found) == {byte for byte in expected if byte < size}


@given(tables(), st.integers(0, 40), st.integers(1, 40))
def test_the_runs_of_a_stretch(extents, start, length):
    everything = shared_bytes(table_of(extents), 1 << 20)
    expected = [(one, other) for one, other in pairs(everything) if one < start + length and start < other]
    assert runs_within(everything, start, start + length) == expected
