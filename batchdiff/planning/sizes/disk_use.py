"""The space that an overlay's data takes on disk, and the part of it that other files share.

::

    guest's segments   |  file  | hole |         file          |  hole  |
    never written                          |#|
    data to write         |-----------|   |--|       |----|  |-----|
    taken                 |xxxxx|     |   |x |       |xxxx|  |x|   whole units of the filesystem, each counted once

Segments are looked up once per stretch, because a lookup for each of thousands of runs would be slow.
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
"""Limits the memory for segments: clusters of 64 KiB in random order make 8,192 segments."""


@frozen
class SpaceTaken:
    """The bytes that data takes on disk, in whole units, and its bytes in blocks that other files share.

    ``holes``: the bytes of whole unwritten units of the file within the data; 0 if not counted.
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

    ``data``: offsets and lengths of its runs in bytes, shape (runs, 2), sorted and disjoint.

    ``file_start``: the file offset from which the runs are stored, one after the other; if None, holes are not
    counted. ``known``: the result of :func:`~batchdiff.image.storage.shared_blocks.raw_extents`, if any.
    ``written`` gets the starts and ends of the parts that count as stored, ascending, each within a run.

    :raises ImageError: the image is damaged or cannot be read.
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
            # Two pieces may be in one unit.
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
    """A count of the whole unwritten units within a file's data."""

    def __init__(self, starts: Offsets, ends: Offsets, file_start: int, unit: int) -> None:
        lengths = ends - starts
        self._shift = file_start + np.cumsum(lengths) - lengths - starts  # from the guest's offsets to the file's
        self._unit = unit
        self._next, self._end = ceil_div(file_start, unit), (file_start + int(lengths.sum())) // unit
        self.holes = max(self._end - self._next, 0)

    def touch(self, lows: Offsets, highs: Offsets, run: Offsets) -> None:
        """Count ascending pieces of the guest as written. ``run``: the number of each piece's run."""
        shift = self._shift[run]
        begins = np.maximum((lows + shift) // self._unit, self._next)
        stops = np.minimum((highs + shift - 1) // self._unit + 1, self._end)
        if len(begins):
            begins = np.maximum(begins, np.concatenate([[self._next], np.maximum.accumulate(stops)[:-1]]))
            self.holes -= int(np.maximum(stops - begins, 0).sum())
            self._next = max(self._next, int(stops.max()))


def _stored(segment: Segment, rule: WriteRule) -> Iterator[tuple[int, int]]:
    for part, to_write in rule.parts(segment):
        if to_write is ToWrite.ALL:
            yield part.start, part.end


def _cut_at_stretches(runs: Offsets) -> tuple[Offsets, Offsets]:
    start, end = runs[:, 0], runs[:, 0] + runs[:, 1]
    first = start // _STRETCH
    count = (end - 1) // _STRETCH - first + 1
    run = np.repeat(np.arange(len(runs)), count)
    stretch = np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)
    return np.maximum(start[run], stretch * _STRETCH), np.minimum(end[run], (stretch + 1) * _STRETCH)


def _shared_in(image: Image, segments: list[Segment], runs_here: tuple[Offsets, Offsets]) -> int:
    stored = [segment for segment in segments if segment.origin is Origin.FILE]
    _, _, touched, _ = _overlaps([(segment.start, segment.end) for segment in stored], runs_here)
    found = shared_extents(image, [stored[index] for index in distinct(touched).tolist()])
    lows, highs, _, _ = _overlaps([(extent.start, extent.end) for extent in found], runs_here)
    return int((highs - lows).sum())


def _stretches(starts: Offsets) -> Iterator[tuple[int, int]]:
    """Yield the index of each stretch's first run, and of the run after its last."""
    if len(starts):
        stretch = starts // _STRETCH
        edges = [0, *(np.flatnonzero(stretch[1:] != stretch[:-1]) + 1).tolist(), len(starts)]
        yield from itertools.pairwise(edges)


def _overlaps(
    spans: list[tuple[int, int]], runs: tuple[Offsets, Offsets]
) -> tuple[Offsets, Offsets, Offsets, Offsets]:
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return overlaps((table[:, 0], table[:, 1]), runs)
