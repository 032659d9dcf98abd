"""Which parts of a file are preallocated on its disk and were never written to: they read as zeros.

::

    file         | written | unwritten                                          | hole |
    SEEK_DATA    | data    | a hole, or data where the page cache has its zeros | hole |

So SEEK_DATA depends on who has read the file, and this does not. It is a hint of where zeros are to be looked for,
never anybody's word for the content.

Source: Linux ``Documentation/filesystems/fiemap.rst`` (FIEMAP_EXTENT_UNWRITTEN).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from batchdiff.image.fiemap import ExtentFlag, ExtentTable, extent_table


class Unwritten:
    """The unwritten parts of one open file, as they are now."""

    def __init__(self, fd: int, path: str, *, known: ExtentTable | None = None) -> None:
        """``known``: its unwritten extents, and perhaps others, if the filesystem was asked before.

        :raises ImageError: the filesystem has a fault.
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
        """Whether all that is not in a hole was written."""
        return not self._starts

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Bytes ``start`` to ``end`` in parts, each with its start and end and whether it is unwritten."""
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
