"""How far workers have come in the ranges that they scan: numbers in memory that the planner shares with them.

With many guests, a range takes many seconds, so whole ranges are too coarse to show progress by.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence

_CELLS = 512
"""Numbers of ranges in progress differ by less than this, so each has a cell of its own."""

_BETWEEN_REPORTS = 0.2
"""Seconds of scanning between two reports of a process."""


class RangesAtWork:
    """The bytes scanned so far of each range that is in progress, in the template and its guests together."""

    def __init__(self, range_size: int, advanced: Callable[[], None]) -> None:
        """Begin without any. ``advanced`` is called after each report of the planner itself, without workers."""
        self._range_size = range_size
        self._advanced = advanced
        self._cells = memoryview(mmap.mmap(-1, 8 * _CELLS)).cast("q")  # forked workers share it
        self._planner = os.getpid()
        self._next = 0.0

    def reach(self, number: int, offset: int, sizes: Sequence[int]) -> None:
        """Report, if it is time, that range ``number`` of images of these sizes is scanned up to ``offset``."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _BETWEEN_REPORTS
        start = number * self._range_size
        self._cells[number % _CELLS] = sum(max(min(size, offset) - start, 0) for size in sizes)
        if os.getpid() == self._planner:
            self._advanced()

    def end(self, number: int) -> None:
        """Forget the range ``number``: it is done."""
        self._cells[number % _CELLS] = 0

    @property
    def scanned(self) -> int:
        """The bytes scanned so far of all ranges that are in progress."""
        return sum(self._cells)
