"""The parts of a file that are preallocated on its disk but have never been written to: they read as zeros.

::

    file         | written | unwritten                                          | hole |
    SEEK_DATA    | data    | a hole, or data where the page cache has its zeros | hole |

The result of SEEK_DATA depends on what has been read before; that of FIEMAP does not, but even FIEMAP proves
nothing about the content.

A conversion loses disk space that was reserved by preallocation. But not every unwritten block was reserved: VMs
and QEMU make short runs of them when they write zeros, and XFS makes long runs in place of holes in files that cp
writes.

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
"""The shortest run of unwritten blocks that counts as reserved. Shorter ones are normal: QEMU zeroes the rest of a
qcow2 cluster (at most 2 MiB) that a VM begins to write, and in an image that QEMU creates, XFS allocates whole
MiB."""

_LEAST_SHARE = 0.1
"""The least share of the disk that counts as reserved: a VM that makes a filesystem zeroes less than 2% of it."""

_WHOLE = 0.99
"""The share of the file's length, or of the disk's size if that is larger, that must be allocated on filesystems
that may make unwritten blocks in place of holes."""

_ONLY_RESERVED = {"ext4", "btrfs"}
"""The filesystems on which only programs make unwritten blocks within a file's length."""


class Unwritten:
    """The unwritten parts that an open file had when this object was created."""

    def __init__(self, fd: int, path: str, *, known: ExtentTable | None = None) -> None:
        """Ask the filesystem for these parts; there are none if it does not report extents.

        ``known``: at least the file's unwritten extents, if the filesystem was asked before.

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
        """Split bytes ``start`` to ``end``: yield each part's start and end, and whether the part is unwritten."""
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

    Only runs of at least 4 MiB within the file's length count, and only if they total at least a tenth of
    ``virtual_size``, the bytes of the disk. On filesystems other than ext4 and btrfs, nearly the whole file must
    also be allocated; on XFS, a program must have called fallocate(2) for it as well. ``known``: at least the
    file's unwritten extents, if the filesystem was asked before.

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
    """Yield sorted parts (start, end), with adjacent ones joined and empty ones left out."""
    begin = last = 0
    for start, end in itertools.chain(parts, [(-1, -1)]):
        if start != last:
            if begin < last:
                yield begin, last
            begin = start
        last = end
