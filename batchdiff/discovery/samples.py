"""Take samples of an image's data, as hashes.

::

    data      ######......#######.....########
    probes    |0  |1  |2  |3  |4  |5  |6  |7  |     at the image's level, 0, 3, 5 and 6 are chosen
    read      |0  |       |3  |       |6  |         those of them that have data
    samples   a hash of place and content for each 64 KiB that is not all zeros
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batchdiff.discovery.sample_offsets import HIGHEST_LEVEL, SAMPLE, SampleNumbers, chosen_probes, levels_of
from batchdiff.errors import ImageError
from batchdiff.files.allowed_files import allowed_file
from batchdiff.image.backing.heads import Heads
from batchdiff.image.files import content_size, is_block_device, open_image_file
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image.storage.allocation import allocated_bytes
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, ceil_div

Hashes: TypeAlias = npt.NDArray[np.uint64]

_WINDOW = 64 * MIB
"""Guest bytes whose segments are in memory at once."""

_ENOUGH = 2
"""If fewer probes are found than the maximum divided by this, a lower level is tried."""


class SampleShape(NamedTuple):
    """The maximum number of samples of an image, and the binary logarithm of the number of samples in a probe."""

    most: int
    probe_bits: int

    @property
    def probe(self) -> int:
        """The size of a probe in bytes."""
        return SAMPLE << self.probe_bits

    @property
    def probes(self) -> int:
        """The maximum number of probes to read from an image."""
        return max(self.most >> self.probe_bits, 1)


SCATTERED = SampleShape(512, 0)
"""Single samples, for the narrowest intervals."""

SEQUENTIAL = SampleShape(2048, 5)
"""64 probes of 2 MiB: on a spinning disk, reading one takes about as long as seeking to it."""


class Samples(NamedTuple):
    """The nonzero samples of an image.

    ``level``: each probe stands for ``2**level`` probes; at level 0, all data was read. ``numbers``: the offset of
    each sample divided by 64 KiB, ascending. ``stored``: the bytes that each would take in an overlay.
    """

    level: int
    numbers: SampleNumbers
    hashes: Hashes
    stored: SampleNumbers


class ReadCount:
    """The reads for samples, and the bytes of data in them."""

    def __init__(self) -> None:
        self.reads = 0
        self.read_bytes = 0


def most_bytes(path: str, shape: SampleShape) -> int:
    """Estimate the maximum number of bytes to read from an image; 0 if its own file cannot be opened."""
    try:
        fd = open_image_file(path)
        try:
            size = content_size(fd)
            own = size if is_block_device(fd) else min(size, allocated_bytes(fd, path))
        finally:
            os.close(fd)
    except ImageError:
        return 0
    return min(shape.probes * shape.probe, own + sum(map(_data_bytes, _parts(path))))


def _parts(path: str) -> set[str]:
    """Return the files that an image names and may use, except backing files that can name others in turn."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for each in Heads().names(path, os.stat(path)):
            with contextlib.suppress(ImageError):
                found |= {allowed_file(each.name, path, ())} if each.ends_there else set()
    return found - {path}


def _data_bytes(path: str) -> int:
    """Measure a file without opening it, because a header can name any kind of file."""
    with contextlib.suppress(OSError):
        info = os.stat(path)
        if stat.S_ISREG(info.st_mode):
            return min(info.st_size, info.st_blocks * 512)
    return 0


def take_samples(image: Image, shape: SampleShape, count: ReadCount) -> Samples:
    """Return the samples of an open image. ``count`` includes what was read before an error.

    :raises ImageError: the image cannot be read, or the filesystem reports an error.
    """
    level = _first_level(_stored(image), shape)
    places = _places(image, level, shape)
    while level and len(places) * _ENOUGH < shape.probes:
        level -= 1
        places = _places(image, level, shape)
    # Data that takes less space than its length, such as compressed clusters, has more probes than expected.
    heights = levels_of(places)
    while len(places) > shape.probes and level < HIGHEST_LEVEL:
        level += 1
        places, heights = places[heights >= level], heights[heights >= level]
    numbers: list[int] = []
    hashes: list[int] = []
    stored: list[int] = []
    rule = WriteRule(image)
    buffer = ReadBuffer(shape.probe)
    for place in places.tolist():
        start = place * shape.probe
        segments = image.segments(start, start + shape.probe)
        view = buffer.load_segments(image, start, shape.probe, segments)
        count.reads += 1
        count.read_bytes += sum(each.end - each.start for each in segments if each.origin is not Origin.ZERO)
        blocks = _stored_blocks(segments, rule, start, shape.probe)
        for number, sample in _nonzero(view, place << shape.probe_bits):
            numbers.append(number)
            hashes.append(_hash(number, sample))
            first = (number * SAMPLE - start) // UNIT
            stored.append(int(np.count_nonzero(blocks[first : first + SAMPLE // UNIT])) * UNIT)
    return Samples(
        level,
        np.array(numbers, dtype=np.int64),
        np.array(hashes, dtype=np.uint64),
        np.array(stored, dtype=np.int64),
    )


def _stored_blocks(segments: Iterable[Segment], rule: WriteRule, start: int, length: int) -> npt.NDArray[np.bool_]:
    """Return which blocks of 4 KiB an overlay would store."""
    blocks = np.zeros(length // UNIT, dtype=bool)
    for segment in segments:
        for part, to_write in rule.parts(segment):
            if to_write is ToWrite.ALL:
                blocks[(part.start - start) // UNIT : ceil_div(part.end - start, UNIT)] = True
    return blocks


def _stored(image: Image) -> int:
    return sum(
        content_size(layer.fd) if is_block_device(layer.fd) else os.fstat(layer.fd).st_blocks * 512
        for layer in image.layers
    )


def _first_level(stored: int, shape: SampleShape) -> int:
    """Return the lowest level that would have few enough probes if all stored data were contiguous."""
    level = 0
    while stored >> level > shape.probes * shape.probe:
        level += 1
    return level


def _places(image: Image, level: int, shape: SampleShape) -> SampleNumbers:
    """Return the chosen probes that have data, ascending."""
    step = max(_WINDOW, shape.probe << level)
    found = [np.zeros(0, dtype=np.int64)]
    at = 0
    while (data := image.next_data(at)) is not None:
        start = data // step * step
        found.append(_places_within(image, start, start + step, level, shape))
        at = start + step
    return np.concatenate(found)


def _places_within(image: Image, start: int, end: int, level: int, shape: SampleShape) -> SampleNumbers:
    probe = shape.probe
    if end - start > _WINDOW:  # one cell, of which only the chosen probe matters
        (place,) = chosen_probes(np.array([start // (probe << level)]), level).tolist()
        start, end = place * probe, (place + 1) * probe
    segments = image.segments(start, end)
    data = [(each.start, each.end) for each in segments if each.origin is not Origin.ZERO]
    if not data:
        return np.zeros(0, dtype=np.int64)
    edges = np.array(data, dtype=np.int64)
    first, last = edges[:, 0] // probe, (edges[:, 1] - 1) // probe
    places = chosen_probes(np.unique(_ranges(first >> level, last >> level)), level)
    # A probe counts even if only a part of it has data, so the ranges from ``first`` to ``last`` can overlap, but
    # only in the probes at their ends.
    nearest = np.searchsorted(last, places)
    inside = nearest < len(first)
    inside[inside] &= first[nearest[inside]] <= places[inside]
    return places[inside]


def _ranges(first: SampleNumbers, last: SampleNumbers) -> SampleNumbers:
    """Return all numbers from each ``first`` to its ``last``, inclusive."""
    counts = last - first + 1
    starts = np.repeat(first - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
    return starts + np.arange(int(counts.sum()))


def _nonzero(probe: memoryview, first: int) -> Iterator[tuple[int, memoryview]]:
    for offset in range(0, len(probe), SAMPLE):
        sample = probe[offset : offset + SAMPLE]
        if np.frombuffer(sample, dtype=np.uint64).any():
            yield first + offset // SAMPLE, sample


def _hash(number: int, sample: memoryview) -> int:
    digest = hashlib.blake2b(sample, digest_size=8, salt=number.to_bytes(16, "little"))
    return int.from_bytes(digest.digest(), "little")
