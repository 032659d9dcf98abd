"""What of an overlay's data costs no space: the guest's holes, and blocks that other files have, too.

::

    guest's segments   |  file  | hole |         file          |  hole  |
    data to write         |-----------|   |--|       |----|  |-----|
    taken                 |xxxxx|hhhhh|   |xx|       |xxxx|xx|hhhhh|

The guest is asked once for a stretch that has many runs: one question each would cost more than all the rest
of a plan where a guest has thousands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind
from batchdiff.image.contract import Segment
from batchdiff.image.image import Image
from batchdiff.image.sharing import placed
from batchdiff.planning.compare import UNIT
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB

Offsets = npt.NDArray[np.int64]

_STRETCH = 512 * MIB
"""A qcow2 with clusters of 64 KiB in no order at all has 8,192 segments in it: a megabyte or two."""


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes of the data: in holes, in whole blocks of 4 KiB; and in blocks that other files have, too."""

    holes: int
    shared: int


def free_bytes(image: Image, extents: Extents, granule: int, *, sharing: bool) -> Free:
    """What of the data extents, in granules, is free; without ``sharing`` nothing counts as shared.

    :raises ImageError: the guest's tables are damaged, or its filesystem has a fault.
    """
    data = extents.pairs(Kind.DATA) * granule
    starts, ends = data[:, 0], data[:, 0] + data[:, 1]
    holes = shared = 0
    for first, last in _stretches(starts):
        inside = starts[first:last], ends[first:last]
        segments = image.segments(int(starts[first]), int(ends[last - 1]))
        zeros = [(segment.start, segment.end) for segment in segments if segment.origin is Origin.ZERO]
        lows, highs, _ = _overlaps(zeros, *inside)
        holes += int(np.maximum(highs // UNIT - -(-lows // UNIT), 0).sum()) * UNIT
        shared += _shared(image, segments, *inside) if sharing else 0
    return Free(holes, shared)


def _shared(image: Image, segments: list[Segment], starts: Offsets, ends: Offsets) -> int:
    stored = [segment for segment in segments if segment.origin is Origin.FILE]
    _, _, touched = _overlaps([(segment.start, segment.end) for segment in stored], starts, ends)
    found = placed(image, [stored[number] for number in np.unique(touched).tolist()])
    lows, highs, _ = _overlaps([(place.start, place.end) for place in found], starts, ends)
    return int((highs - lows).sum())


def _stretches(starts: Offsets) -> Iterator[tuple[int, int]]:
    """The runs that begin in one stretch of the disk: numbers of the first, and of that after the last."""
    if len(starts):
        number = starts // _STRETCH
        edges = [0, *(np.flatnonzero(number[1:] != number[:-1]) + 1).tolist(), len(starts)]
        yield from itertools.pairwise(edges)


def _overlaps(spans: list[tuple[int, int]], starts: Offsets, ends: Offsets) -> tuple[Offsets, Offsets, Offsets]:
    """Where spans and runs, both sorted and disjoint, overlap: starts, ends, and numbers of the spans."""
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(ends, table[:, 0], side="right")
    count = np.maximum(np.searchsorted(starts, table[:, 1], side="left") - first, 0)
    span = np.repeat(np.arange(len(table)), count)
    run = np.arange(len(span)) + np.repeat(first - (np.cumsum(count) - count), count)
    return np.maximum(table[span, 0], starts[run]), np.minimum(table[span, 1], ends[run]), span
