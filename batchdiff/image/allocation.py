"""What a file takes on its disk, and what deleting it would give back."""

from __future__ import annotations

import os
import stat

from batchdiff.image.fiemap import ExtentFlag, physical_extents


def allocated_bytes(fd: int) -> int:
    """Bytes on disk of an open file; of a block device, its size."""
    info = os.fstat(fd)
    return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(info.st_mode) else info.st_blocks * 512


def reclaimable_bytes(fd: int, path: str) -> int:
    """What deleting the file would free.

    Blocks that another file shares (reflink) stay, and so does everything under another hard link. A block
    device gives all its bytes back to the pool that it was taken from.

    :raises ImageError: the filesystem cannot tell.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return allocated_bytes(fd)
    if info.st_nlink > 1:
        return 0
    extents = physical_extents(fd, path)
    shared = sum(extent.length for extent in extents or () if extent.flags & ExtentFlag.SHARED)
    # Asked again: the extents were written to disk first, and before that st_blocks is a reservation.
    return max(allocated_bytes(fd) - shared, 0)
