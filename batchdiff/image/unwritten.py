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

from batchdiff.image.fiemap import ExtentFlag, physical_extents


class Unwritten:
    """The unwritten parts of one open file, as they are now."""

    def __init__(self, fd: int, path: str) -> None:
        """:raises ImageError: the filesystem has a fault."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        for extent in physical_extents(fd, path, having=ExtentFlag.UNWRITTEN) or ():
            self._add(extent.logical, extent.logical + extent.length)

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
