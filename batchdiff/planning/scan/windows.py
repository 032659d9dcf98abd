"""Where an image's bytes are in a stretch of windows, as much as is needed and as little as may be kept.

::

    segments of a guest   |    ZERO     |FILE|        ZERO         |  FILE  |
    windows                |  0  |  1  |  2  |  3  |  4  |  5  |  6  |
    kept                                |2: ....|                  |6: ....|    of windows with bytes to read

A stretch has as many windows as fit: a whole range of a thousand guests that are almost empty, one window of
guests whose clusters are in no order at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchdiff.image.layer import Segment, windowed
from batchdiff.planning.scan.compare import UNIT, WINDOW, Flags
from batchdiff.planning.scan.spans import Spans, spans, without
from batchdiff.qcow2.entries import Origin

MOST_KEPT = 32768
"""Segments and windows of all guests that are kept at once: each takes about 400 bytes, so some 13 MiB."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """By window what must be read of an image there, and its segments.

    The segments of a window may be left out; then they are looked up again when they are needed.
    """

    spans: Spans
    segments: dict[int, list[Segment]]

    @property
    def kept(self) -> int:
        """What counts for :data:`MOST_KEPT`."""
        return len(self.spans) + sum(map(len, self.segments.values()))


def mapped(segments: list[Segment], begin: int, needed: Spans) -> Mapped:
    """The windows that are needed, numbered from offset ``begin`` on, with their segments."""
    return Mapped(needed, windowed(segments, begin, WINDOW, sorted(needed)))


def spans_of(segments: list[Segment], begin: int, settled: list[tuple[int, int]]) -> Spans:
    """What must be read of an image: all that is not zeros, less what is settled."""
    there = [(segment.start, segment.end) for segment in segments if segment.origin is not Origin.ZERO]
    return spans(without(there, settled), begin, WINDOW, UNIT)


def without_holes(wanted: Spans, own: list[Segment], begin: int, windows: int) -> tuple[Spans, Flags]:
    """Wanted spans but for windows in which an image has nothing but zeros; and which of all windows these are.

    Windows are numbered from offset ``begin`` on. Trimmed guests have many: looked at one by one, they took nine
    tenths of the plan of such a fleet.
    """
    hollow = np.ones(windows, dtype=np.bool_)
    for start, end, origin, _, _ in own:
        if origin is not Origin.ZERO:
            hollow[(start - begin) // WINDOW : (end - 1 - begin) // WINDOW + 1] = False
    left = wanted.keys() - set(np.flatnonzero(hollow).tolist())
    return {window: wanted[window] for window in left}, hollow


class Stride:
    """How many windows are mapped at once; found by trying, as nothing tells beforehand what is in them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.windows = 1

    def fits(self, kept: int, windows: int) -> bool:
        """Whether that many windows may be mapped at once; where they may not, fewer are tried next."""
        if kept <= MOST_KEPT or windows == 1:
            return True
        self.windows = windows // 2
        return False

    def lengthen_after(self, kept: int) -> None:
        """Maps more at once where twice as much would fit easily."""
        if kept <= MOST_KEPT // 4:
            self.windows = min(self.windows * 2, self._most)
