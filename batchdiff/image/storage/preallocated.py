"""The parts of a file that are preallocated on its disk but were never written to: they read as zeros.

::

    file         | written | unwritten                                          | hole |
    SEEK_DATA    | data    | a hole, or data where the page cache has its zeros | hole |

So the result of SEEK_DATA depends on what has been read before; that of FIEMAP does not. Even FIEMAP only
hints where to look for zeros, and proves nothing about the content.

Source: Linux ``Documentation/filesystems/fiemap.rst`` (FIEMAP_EXTENT_UNWRITTEN).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from batchdiff.linux.fiemap import ExtentFlag, ExtentTable, extent_table


class Unwritten:
    """The unwritten parts of one open file, as they are now."""

    def __init__(self, fd: int, path: str, *, known: ExtentTable | None = None) -> None:
        """Ask the filesystem for these parts. ``known``: its answer, if it was asked before.

        :raises ImageError: the filesystem reports an error.
        """
        self._starts: list[int] = []
        self._ends: list[int] = []
        table = known or extent_table(fd, path, having=ExtentFlag.UNWRITTEN)
        if table is not None:
            found = table.having(ExtentFlag.UNWRITTEN)
            for start, length in zip(found.logical.tolist(), found.length.tolist(), strict=True):
                self._add(start, start + length)

    def _add(self, start: int, end: int) -> None:
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = end
        else:
            self._starts.append(start)
            self._ends.append(end)

    @property
    def is_nothing(self) -> bool:
        """True if there are no unwritten parts."""
        return not self._starts

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Split bytes ``start`` to ``end``: yield start and end of each part, and whether it is unwritten."""
        at, number = start, bisect.bisect_right(self._ends, start)
        while at < end:
            begin = self._starts[number] if number < len(self._starts) else end
            if at < begin:
                yield at, min(begin, end), False
                at = begin
            if at < end:
                yield at, min(self._ends[number], end), True
                at = self._ends[number]
            number += 1
