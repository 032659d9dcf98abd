"""The rule of what a new image stores and what stays a hole in it."""

from __future__ import annotations

import os

import notation
import pytest
from filesystems import mounted

from batchdiff.image.layer import Segment
from batchdiff.image.open import open_image
from batchdiff.image.storage.shared_blocks import raw_extents
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB

ALL, NONZERO = ToWrite.ALL, ToWrite.NONZERO
SHIFT = 1024 * KIB
"""Of the guest's offsets against the file's."""


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def image(request, tmp_path_factory):
    """64 KiB preallocated, of which 16 KiB to 32 KiB are written: data, then zeros."""
    with mounted(tmp_path_factory.mktemp("to_write"), request.param) as point:
        path = point / "a.img"
        notation.run("fallocate", "-l", "64k", str(path))
        with path.open("r+b") as file:
            file.seek(16 * KIB)
            file.write(b"x" * 8 * KIB + bytes(8 * KIB))
            os.fsync(file.fileno())
        with open_image(ImageSource(str(path), ImageFormat.RAW)) as image:
            yield image


def segment(start, end, origin=Origin.FILE):
    return Segment(SHIFT + start * KIB, SHIFT + end * KIB, origin, 0, start * KIB)


def parts(rule, whole):
    found = list(rule.parts(whole))
    for part, _ in found:
        assert part.address == part.start - SHIFT  # the same shift as that of the whole
        assert (part.origin, part.layer) == (whole.origin, whole.layer)
    return [((part.start - SHIFT) // KIB, (part.end - SHIFT) // KIB, to_write) for part, to_write in found]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 64, [(0, 16, NONZERO), (16, 32, ALL), (32, 64, NONZERO)]),
        (16, 32, [(16, 32, ALL)]),
        (20, 40, [(20, 32, ALL), (32, 40, NONZERO)]),
        (40, 44, [(40, 44, NONZERO)]),
    ],
)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_is_split_by_what_was_written(image, start, end, expected, read_before):
    """Zeros that were written are data; reading the file beforehand makes no difference."""
    if read_before:
        os.pread(image.layers[0].fd, 64 * KIB, 0)
    for known in (None, raw_extents(image)):
        assert parts(WriteRule(image, known=known), segment(start, end)) == expected


def test_zeros_stay_holes_and_compressed_clusters_are_written(image):
    rule = WriteRule(image)
    assert parts(rule, segment(0, 64, Origin.ZERO)) == []
    assert list(rule.parts(segment(0, 64, Origin.COMPRESSED))) == [(segment(0, 64, Origin.COMPRESSED), ALL)]


def test_a_file_without_unwritten_blocks_is_written_in_one_piece(tmp_path):
    path = notation.write_raw(tmp_path / "a.img", "64k:A")
    with open_image(ImageSource(str(path), ImageFormat.RAW)) as image:
        assert parts(WriteRule(image), segment(0, 64)) == [(0, 64, ALL)]
