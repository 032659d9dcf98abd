"""The progress of workers within the ranges that they scan, in memory that the planner shares with them.

With many guests, a range takes many seconds, so whole ranges are too coarse to show progress by.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence

_CELLS = 512
"""A process uses the cell that its id determines. If two share one, which is rare, too little progress is seen."""

_BETWEEN_REPORTS = 0.2
"""Seconds of scanning between two reports of a process."""


class RangeProgress:
    """The bytes scanned so far of each range that is in progress, in the template and its guests together."""

    def __init__(self, range_size: int, advanced: Callable[[], None]) -> None:
        """Begin with no range. ``advanced`` is called after each report of the planner, if it has no workers."""
        self._range_size = range_size
        self._advanced = advanced
        self._cells = memoryview(mmap.mmap(-1, 16 * _CELLS)).cast("q")  # forked workers share it
        self._planner = os.getpid()
        self._next = time.monotonic() + _BETWEEN_REPORTS

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a new one: on another host there is no memory to share with the planner."""
        return RangeProgress, (self._range_size, _ignore)

    def reach(self, number: int, offset: int, sizes: Sequence[int]) -> None:
        """Report, if it is time, that range ``number`` of images of these sizes is scanned up to ``offset``."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _BETWEEN_REPORTS
        start = number * self._range_size
        cell = 2 * (os.getpid() % _CELLS)
        self._cells[cell] = number
        self._cells[cell + 1] = sum(max(min(size, offset) - start, 0) for size in sizes)
        if os.getpid() == self._planner:
            self._advanced()

    def end(self, number: int) -> None:
        """Forget the range ``number``: it is done."""
        for cell in range(0, len(self._cells), 2):
            if self._cells[cell] == number:
                self._cells[cell + 1] = 0

    @property
    def scanned(self) -> int:
        """The bytes scanned so far of all ranges that are in progress."""
        return sum(self._cells[1::2])


def _ignore() -> None:
    """Ignore that the planner has advanced."""
