"""The segments of images in a stretch of windows, kept only for windows with bytes to read.

::

    segments of a guest    |    ZERO    |FILE|       ZERO       |FILE|
    windows                |  0  |  1  |  2  |  3  |  4  |  5  |  6  |
    kept                               |2: ..|                 |6: ..|    those of windows with bytes to read
"""

from __future__ import annotations

import numpy as np

from batchdiff.frozen import frozen
from batchdiff.image.layer import Segment, split_into_windows
from batchdiff.planning.scan.compare import UNIT, WINDOW, Flags
from batchdiff.planning.scan.spans import Spans, spans_by_window, subtract
from batchdiff.qcow2.entries import Origin

MOST_KEPT = 32768
"""The maximum number of segments and windows to keep at a time for all images: about 13 MiB, 400 bytes each."""


@frozen
class WindowMap:
    """By window: the spans of an image to be read, and its segments; if no window has any, look them up."""

    spans: Spans
    segments: dict[int, list[Segment]]

    @property
    def kept(self) -> int:
        """The number of windows and segments."""
        return len(self.spans) + sum(map(len, self.segments.values()))


def map_windows(segments: list[Segment], begin: int, needed: Spans) -> WindowMap:
    """Return the needed windows, numbered from offset ``begin``, with their segments."""
    return WindowMap(needed, split_into_windows(segments, begin, WINDOW, sorted(needed)))


def spans_to_read(segments: list[Segment], begin: int, settled: list[tuple[int, int]]) -> Spans:
    """Return the spans of an image to be read: all but zeros and the settled bytes."""
    there = [(segment.start, segment.end) for segment in segments if segment.origin is not Origin.ZERO]
    return spans_by_window(subtract(there, settled), begin, WINDOW, UNIT)


def leave_out_holes(wanted: Spans, own: list[Segment], begin: int, windows: int) -> tuple[Spans, Flags]:
    """Return the spans wanted of the template outside hollow windows, and which windows are hollow.

    A window is hollow if the guest, whose segments are ``own``, reads as zeros there.
    """
    hollow = np.ones(windows, dtype=np.bool_)
    for start, end, origin, _, _ in own:
        if origin is not Origin.ZERO:
            hollow[(start - begin) // WINDOW : (end - 1 - begin) // WINDOW + 1] = False
    left = wanted.keys() - set(np.flatnonzero(hollow).tolist())
    return {window: wanted[window] for window in left}, hollow


class Stride:
    """The number of windows to map at a time, found by trial."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.windows = 1

    def fits(self, kept: int, windows: int) -> bool:
        """Return whether this many windows fit (one always does); if not, half as many are tried next."""
        if kept <= MOST_KEPT or windows == 1:
            return True
        self.windows = windows // 2
        return False

    def lengthen_after(self, kept: int) -> None:
        """Double the number, up to the maximum, if twice as many would fit easily."""
        if kept <= MOST_KEPT // 4:
            self.windows = min(self.windows * 2, self._most)
