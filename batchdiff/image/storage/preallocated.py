"""The parts of a file that are preallocated but unwritten: they read as zeros.

::

    file         | written | unwritten                                          | hole |
    SEEK_DATA    | data    | a hole, or data where the page cache has its zeros | hole |

SEEK_DATA depends on the page cache. FIEMAP does not, but even FIEMAP proves nothing about the content.

A conversion loses reserved disk space. But not every unwritten block was reserved: VMs and QEMU make short
unwritten runs when they write zeros, and XFS makes long ones in place of holes in files that cp writes.

Source: Linux ``Documentation/filesystems/fiemap.rst`` (FIEMAP_EXTENT_UNWRITTEN).
"""

from __future__ import annotations

import bisect
import itertools
import os
import stat
from collections.abc import Iterator

import numpy as np

from batchdiff.linux.fiemap import ExtentFlag, ExtentTable, extent_table
from batchdiff.linux.inode_flags import was_preallocated
from batchdiff.linux.mounts import filesystem_of
from batchdiff.units import MIB

_LEAST_RUN = 4 * MIB
"""The shortest run that counts: QEMU zeroes the rest of a qcow2 cluster (at most 2 MiB) that a VM begins to write,
and in an image that QEMU creates, XFS allocates whole MiB."""

_LEAST_SHARE = 0.1
"""The least share of the disk that counts: a VM that makes a filesystem zeroes less than 2% of it."""

_WHOLE = 0.99
"""On filesystems on which holes may become unwritten blocks, this share of the file, or of the disk if that is
larger, must be allocated if unwritten bytes are to count."""

_ONLY_RESERVED = {"ext4", "btrfs"}
"""Filesystems that make unwritten blocks within a file's length only on request."""


class Unwritten:
    """The unwritten parts of an open file; none if its filesystem does not report extents."""

    def __init__(self, fd: int, path: str, *, known: ExtentTable | None = None) -> None:
        """Find the unwritten parts. ``known``: at least the file's unwritten extents, if found before.

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
        """Yield each part of a range: its start, its end, and whether it is unwritten."""
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


def reserved_bytes(fd: int, path: str, virtual_size: int, *, known: ExtentTable | None = None) -> int:
    """Return the unwritten bytes of an open image file that were probably reserved on purpose; 0 if unknown.

    ``known``: at least the file's unwritten extents, if found before.

    :raises ImageError: the filesystem reports an error.
    """
    info = os.fstat(fd)
    filesystem = filesystem_of(fd)
    if not stat.S_ISREG(info.st_mode) or (filesystem == "xfs" and not was_preallocated(fd)):
        return 0
    only_reserved = filesystem in _ONLY_RESERVED
    table = known if only_reserved else None
    if table is None:
        table = extent_table(fd, path, having=ExtentFlag.UNWRITTEN if only_reserved else 0)
    if table is None:
        return 0
    starts, ends = np.minimum(table.logical, info.st_size), np.minimum(table.logical + table.length, info.st_size)
    if not only_reserved and (ends - starts).sum() < _WHOLE * max(info.st_size, virtual_size):
        return 0
    unwritten = table.flags & ExtentFlag.UNWRITTEN != 0
    runs = _joined(zip(starts[unwritten].tolist(), ends[unwritten].tolist(), strict=True))
    total = sum(end - start for start, end in runs if end - start >= _LEAST_RUN)
    return total if total >= _LEAST_SHARE * virtual_size else 0


def _joined(parts: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = last = 0
    for start, end in itertools.chain(parts, [(-1, -1)]):
        if start != last:
            if begin < last:
                yield begin, last
            begin = start
        last = end
