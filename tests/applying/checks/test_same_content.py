"""Our own comparison of two images: it finds every difference, and reads nothing that is a hole in both."""

import random
from collections import Counter

import pytest
from oracle import source
from overlays import write_sparse

from batchdiff.applying.checks import same_content
from batchdiff.applying.checks.same_content import check_same_content
from batchdiff.errors import DifferenceError, StopError
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.units import KIB, MIB

SIZE = 6 * MIB
PLACES = (0, MIB, MIB + 192 * KIB, 2 * MIB - 4 * KIB, 3 * MIB, 3 * MIB + 256 * KIB, SIZE - 8 * KIB)
"""Where the images have data, 8 KiB each: in three stretches of 2 MiB, and over the edge of two."""

WHOLE = [(0, SIZE)]


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(same_content, "_STRETCH", 2 * MIB)
    monkeypatch.setattr(same_content, "_PIECE", 4 * KIB)


class Pair:
    """Two sparse raw images with the same content, and the counts of what a comparison did."""

    def __init__(self, folder):
        content = bytearray(SIZE)
        for place in PLACES:
            content[place : place + 8 * KIB] = random.Random(place).randbytes(8 * KIB)
        self.old, self.new = (write_sparse(folder / name, bytes(content)) for name in ("old.raw", "new.raw"))
        self.counted = 0

    def compare(self, ranges, ended=lambda: False):
        self.counted = 0
        with open_image(source(self.old)) as old, open_image(source(self.new)) as new:
            check_same_content(old, new, iter(ranges), ended, self._count)

    def _count(self, length):
        assert length >= 0
        self.counted += length

    def write(self, path, offset, data):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("place", [*PLACES, *(place + 8 * KIB - 1 for place in PLACES), 4 * MIB, 5 * MIB - 1])
def test_one_byte_that_differs_is_found_in_data_and_in_holes(pair, which, place):
    pair.compare(WHOLE)
    path = getattr(pair, which)
    byte = path.read_bytes()[place]
    pair.write(path, place, bytes([byte ^ 1]))
    with pytest.raises(DifferenceError) as caught:
        pair.compare(WHOLE)
    _, _, begin, _, end = caught.value.why.split()[-5:]
    assert int(begin) <= place < int(end) <= int(begin) + 4 * KIB


def test_differences_outside_the_ranges_do_not_count(pair):
    for place in (MIB, 4 * MIB):
        pair.write(pair.new, place, b"other")
    pair.compare([(0, MIB), (MIB + 4 * KIB, 4 * MIB), (4 * MIB + 5, SIZE)])
    with pytest.raises(DifferenceError):
        pair.compare([(0, MIB), (MIB + 4 * KIB, 4 * MIB + 5)])


def test_the_counted_bytes_add_up_to_the_ranges(pair):
    for ranges in (WHOLE, [(0, 1)], [(4 * MIB, 5 * MIB)], [(at, at + 3000) for at in range(0, SIZE, 64 * KIB)]):
        pair.compare(ranges)
        assert pair.counted == sum(end - start for start, end in ranges)


def test_random_images_and_ranges_against_plain_bytes(tmp_path):
    rng = random.Random(11)
    pair = Pair(tmp_path)
    verdicts = Counter()
    for _ in range(60):
        content = bytearray(SIZE)
        for _ in range(rng.randrange(40)):
            at, length = rng.randrange(SIZE), rng.choice([1, 4 * KIB, 100 * KIB, MIB])
            content[at : at + length] = rng.randbytes(length)[: SIZE - at]
        write_sparse(pair.old, bytes(content))
        changed = bytearray(content)
        for _ in range(rng.randrange(3)):
            at = rng.randrange(SIZE)
            changed[at : at + 3] = rng.choice([bytes(3), b"abc"])[: SIZE - at]
        write_sparse(pair.new, bytes(changed))
        edges = sorted(rng.sample(range(SIZE + 1), 2 * rng.randrange(1, 30)))
        ranges = list(zip(edges[::2], edges[1::2], strict=True))
        differ = any(content[start:end] != changed[start:end] for start, end in ranges)
        verdicts[differ] += 1
        if differ:
            with pytest.raises(DifferenceError):
                pair.compare(ranges)
        else:
            pair.compare(ranges)
            assert pair.counted == sum(end - start for start, end in ranges)
    assert min(verdicts[True], verdicts[False]) > 5


def test_holes_of_both_images_are_not_read(pair, monkeypatch):
    read = []
    real = ReadBuffer.load_segments
    monkeypatch.setattr(
        ReadBuffer,
        "load_segments",
        lambda buffer, image, start, length, segments: (
            read.append((start, length)) or real(buffer, image, start, length, segments)
        ),
    )
    pair.compare(WHOLE)
    # Each of the 4 KiB pieces with data once for each image.
    assert Counter(read) == {(place + at, 4 * KIB): 2 for place in PLACES for at in (0, 4 * KIB)}
    read.clear()
    pair.write(pair.new, 4 * MIB, b"\0")  # data in one image, although it is zeros
    pair.compare(WHOLE)
    assert (4 * MIB, 4 * KIB) in read


def test_images_are_mapped_by_stretches_and_not_by_ranges(pair, monkeypatch):
    asked, mapped = [], []
    next_data, segments = Image.next_data, Image.segments
    monkeypatch.setattr(Image, "next_data", lambda image, at: asked.append(at) or next_data(image, at))
    monkeypatch.setattr(
        Image, "segments", lambda image, start, end: mapped.append(start) or segments(image, start, end)
    )
    pair.compare([(place, place + 8 * KIB) for place in PLACES])
    # Of two images, each stretch: that of 0, that of 3 MiB, and that of the last place.
    assert len(mapped) == 2 * 3
    assert len(asked) == 2 * 3


def test_it_ends_early_if_asked_to(pair):
    looks = iter([False, False, True])
    with pytest.raises(StopError):
        pair.compare(WHOLE, lambda: next(looks))
    assert pair.counted < SIZE
