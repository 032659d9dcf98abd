"""The progress within ranges, in memory that the planner shares with forked workers.

With many guests, a range can take many seconds.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence

_CELLS = 512
"""The process ID determines a process's cell: if two processes share a cell, too little is shown."""

_BETWEEN_REPORTS = 0.2
"""In seconds."""


class RangeProgress:
    """The bytes scanned of each range in progress on this host, over all images."""

    def __init__(self, range_size: int, advanced: Callable[[], None]) -> None:
        """Call ``advanced`` after reports by this process, not by its workers."""
        self._range_size = range_size
        self._advanced = advanced
        self._cells = memoryview(mmap.mmap(-1, 16 * _CELLS)).cast("q")
        self._planner = os.getpid()
        self._next = time.monotonic() + _BETWEEN_REPORTS

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a new instance: another host has no memory to share with the planner."""
        return RangeProgress, (self._range_size, _ignore)

    def reach(self, number: int, offset: int, sizes: Sequence[int]) -> None:
        """Report, if it is time, that a range has been scanned up to ``offset`` on disks of these sizes."""
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
        """Forget a range that is done."""
        for cell in range(0, len(self._cells), 2):
            if self._cells[cell] == number:
                self._cells[cell + 1] = 0

    @property
    def scanned(self) -> int:
        """The bytes scanned of all ranges in progress."""
        return sum(self._cells[1::2])


def _ignore() -> None:
    """Ignore a report."""
