"""The space that an overlay's data takes on disk, and the part of it that other files share.

::

    guest's segments   |  file  | hole |         file          |  hole  |
    never written                          |#|
    data to write         |-----------|   |--|       |----|  |-----|
    taken                 |xxxxx|     |   |x |       |xxxx|  |x|          whole units of the filesystem, each once

:mod:`batchdiff.image.storage.to_write` decides what is written and what stays a hole.
Segments are looked up once per stretch: if a guest has thousands of runs, a lookup for each run would take longer
than the rest of planning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from batchdiff.extents import distinct
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.storage.block_ranges import Offsets, overlaps
from batchdiff.image.storage.shared_blocks import shared_bytes, shared_extents
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, ceil_div

_STRETCH = 512 * MIB
"""The bytes of a stretch. A qcow2 with clusters of 64 KiB in random order has 8,192 segments in each, which take a
megabyte or two of memory."""


@frozen
class SpaceTaken:
    """The bytes that data takes on disk, in whole units, and its bytes in blocks that other files share.

    ``holes``: the bytes of whole units of the file, between the start and the end of the data, to which nothing is
    written; 0 if they were not counted.
    """

    data: int
    shared: int
    holes: int = 0


def _ignore(_starts: Offsets, _ends: Offsets) -> None:
    """Ignore the parts that are written."""


def space_taken(  # noqa: PLR0913  # options by keyword
    image: Image,
    data: Offsets,
    *,
    sharing: bool,
    unit: int = UNIT,
    known: ExtentTable | None = None,
    file_start: int | None = None,
    written: Callable[[Offsets, Offsets], None] = _ignore,
) -> SpaceTaken:
    """Return the space that data takes on a filesystem with allocation units of ``unit`` bytes.

    ``data``: its runs in the image, an array of shape (runs, 2): offset and length in bytes, sorted and disjoint.

    ``file_start``: the file offset from which the runs are stored, one after the other; if None, holes are not
    counted. They matter if a unit holds several clusters: ``disk_bytes`` in ``overlay_sizes`` then counts all
    units of the file, but data clusters can be all zeros, as in version 2, which has no zero clusters.

    Without ``sharing``, nothing counts as shared. ``known``: the shared or unwritten extents of a raw image, if
    found before (:func:`~batchdiff.image.storage.shared_blocks.raw_extents`). ``written`` is called with
    starts and ends of the parts of the runs that count as stored, in ascending order, each within a run.

    :raises ImageError: the guest's tables are damaged or cannot be read, or its filesystem reports an error.
    """
    rule = WriteRule(image, known=known)
    starts, ends = _cut_at_stretches(data)
    units, last_unit, shared = 0, -1, 0
    file = None if file_start is None else _FileUnits(starts, ends, file_start, unit)
    for first, last in _stretches(starts):
        runs_here = starts[first:last], ends[first:last]
        segments = image.segments(int(starts[first]), int(ends[last - 1]))
        lows, highs, _, run = _overlaps(
            [part for segment in segments for part in _stored(segment, rule)], runs_here
        )
        written(lows, highs)
        if file is not None:
            file.touch(lows, highs, run + first)
        if len(lows):
            begins, stops = lows // unit, (highs - 1) // unit
            # Two pieces may be in one unit, which counts once.
            before = np.concatenate([[last_unit], stops[:-1]])
            units += int((stops - np.maximum(begins, before + 1) + 1).sum())
            last_unit = int(stops[-1])
        if sharing and known is None:
            shared += _shared_in(image, segments, runs_here)
    # All shared bytes of the image are in one table, so one lookup serves all runs.
    if sharing and known is not None:
        lows, highs, *_ = overlaps(shared_bytes(known, image.virtual_size), (starts, ends))
        shared = int((highs - lows).sum())
    return SpaceTaken(units * unit, shared, 0 if file is None else file.holes * unit)


class _FileUnits:
    """A count of the whole units of a file, between the start and the end of its data, that stay unwritten."""

    def __init__(self, starts: Offsets, ends: Offsets, file_start: int, unit: int) -> None:
        """Take sorted runs of the guest that are stored one after the other, from ``file_start`` on."""
        lengths = ends - starts
        self._shift = file_start + np.cumsum(lengths) - lengths - starts  # from the guest's offsets to the file's
        self._unit = unit
        self._next, self._end = ceil_div(file_start, unit), (file_start + int(lengths.sum())) // unit
        self.holes = max(self._end - self._next, 0)

    def touch(self, lows: Offsets, highs: Offsets, run: Offsets) -> None:
        """Record which pieces are written: their offsets in the guest, ascending, and the number of each run."""
        shift = self._shift[run]
        begins = np.maximum((lows + shift) // self._unit, self._next)
        stops = np.minimum((highs + shift - 1) // self._unit + 1, self._end)
        if len(begins):
            begins = np.maximum(begins, np.concatenate([[self._next], np.maximum.accumulate(stops)[:-1]]))
            self.holes -= int(np.maximum(stops - begins, 0).sum())
            self._next = max(self._next, int(stops.max()))


def _stored(segment: Segment, rule: WriteRule) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each part of a segment that counts as stored."""
    for part, to_write in rule.parts(segment):
        if to_write is ToWrite.ALL:
            yield part.start, part.end


def _cut_at_stretches(runs: Offsets) -> tuple[Offsets, Offsets]:
    """Return starts and ends of runs (start, length), cut at the edges of stretches; a run may span the disk."""
    start, end = runs[:, 0], runs[:, 0] + runs[:, 1]
    first = start // _STRETCH
    count = (end - 1) // _STRETCH - first + 1
    run = np.repeat(np.arange(len(runs)), count)
    stretch = np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)
    return np.maximum(start[run], stretch * _STRETCH), np.minimum(end[run], (stretch + 1) * _STRETCH)


def _shared_in(image: Image, segments: list[Segment], runs_here: tuple[Offsets, Offsets]) -> int:
    """Return how many bytes of some runs are in blocks that other files share."""
    stored = [segment for segment in segments if segment.origin is Origin.FILE]
    _, _, touched, _ = _overlaps([(segment.start, segment.end) for segment in stored], runs_here)
    found = shared_extents(image, [stored[index] for index in distinct(touched).tolist()])
    lows, highs, _, _ = _overlaps([(extent.start, extent.end) for extent in found], runs_here)
    return int((highs - lows).sum())


def _stretches(starts: Offsets) -> Iterator[tuple[int, int]]:
    """Yield the runs of each stretch of the disk: the numbers of the first, and of the one after the last."""
    if len(starts):
        stretch = starts // _STRETCH
        edges = [0, *(np.flatnonzero(stretch[1:] != stretch[:-1]) + 1).tolist(), len(starts)]
        yield from itertools.pairwise(edges)


def _overlaps(
    spans: list[tuple[int, int]], runs: tuple[Offsets, Offsets]
) -> tuple[Offsets, Offsets, Offsets, Offsets]:
    """Return the overlaps of spans and runs, both sorted and disjoint: see :func:`overlaps`."""
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return overlaps((table[:, 0], table[:, 1]), runs)
