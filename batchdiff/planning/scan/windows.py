"""The segments of images in a stretch of windows: only those to be read.

::

    segments of a guest    |    ZERO    |FILE|       ZERO       |FILE|
    windows                |  0  |  1  |  2  |  3  |  4  |  5  |  6  |
    kept                               |2: ..|                 |6: ..|    of windows with bytes to read

A stretch has about as many windows as :data:`MOST_KEPT` allows, at least one.
"""

from __future__ import annotations

import numpy as np

from batchdiff.frozen import frozen
from batchdiff.image.layer import Segment, split_into_windows
from batchdiff.planning.scan.compare import UNIT, WINDOW, Flags
from batchdiff.planning.scan.spans import Spans, spans_by_window, subtract
from batchdiff.qcow2.entries import Origin

MOST_KEPT = 32768
"""The segments and windows to keep at a time for all images: about 13 MiB, 400 bytes each."""


@frozen
class WindowMap:
    """The spans of an image to be read, and its segments, both by window.

    To save memory, ``segments`` may be empty: then look them up.
    """

    spans: Spans
    segments: dict[int, list[Segment]]

    @property
    def kept(self) -> int:
        """The number of windows and segments, which :data:`MOST_KEPT` limits."""
        return len(self.spans) + sum(map(len, self.segments.values()))


def map_windows(segments: list[Segment], begin: int, needed: Spans) -> WindowMap:
    """Return the needed windows, numbered from offset ``begin``, with their segments."""
    return WindowMap(needed, split_into_windows(segments, begin, WINDOW, sorted(needed)))


def spans_to_read(segments: list[Segment], begin: int, settled: list[tuple[int, int]]) -> Spans:
    """Return the spans of an image to be read: all segments but those of zeros, without the settled bytes."""
    there = [(segment.start, segment.end) for segment in segments if segment.origin is not Origin.ZERO]
    return spans_by_window(subtract(there, settled), begin, WINDOW, UNIT)


def leave_out_holes(wanted: Spans, own: list[Segment], begin: int, windows: int) -> tuple[Spans, Flags]:
    """Return the wanted spans outside hollow windows, and for each window, whether it is hollow.

    A window is hollow if a guest's ``own`` segments have nothing but zeros there. Checking each took nine tenths
    of the time to plan trimmed guests.
    """
    hollow = np.ones(windows, dtype=np.bool_)
    for start, end, origin, _, _ in own:
        if origin is not Origin.ZERO:
            hollow[(start - begin) // WINDOW : (end - 1 - begin) // WINDOW + 1] = False
    left = wanted.keys() - set(np.flatnonzero(hollow).tolist())
    return {window: wanted[window] for window in left}, hollow


class Stride:
    """The number of windows to map at a time, found by trial: the count of segments is not known beforehand."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.windows = 1

    def fits(self, kept: int, windows: int) -> bool:
        """Return True if so many windows can be mapped together; otherwise, halve the number to try next."""
        if kept <= MOST_KEPT or windows == 1:
            return True
        self.windows = windows // 2
        return False

    def lengthen_after(self, kept: int) -> None:
        """Double the number of windows, up to the maximum, if twice as many would fit easily."""
        if kept <= MOST_KEPT // 4:
            self.windows = min(self.windows * 2, self._most)
