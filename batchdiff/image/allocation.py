"""What a file takes on its disk, and what deleting it would give back."""

from __future__ import annotations

import fcntl
import os
import stat

from batchdiff.image.fiemap import ExtentFlag, physical_extents

_BTRFS_IOC_FS_INFO = 0x8400941F
_BTRFS_IOC_FS_INFO_BYTES = 1024


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
    extents = physical_extents(fd, path, having=ExtentFlag.SHARED)
    shared = sum(extent.length for extent in extents or ())
    # Asked again: the extents were written to disk first, and before that st_blocks is a reservation.
    return max(allocated_bytes(fd) - shared, 0)


def keeps_extents_whole(fd: int) -> bool:
    """Whether an extent stays on disk whole as long as any block of it is used: so on btrfs.

    There, who shares 4 KiB of a file's extent of 128 MiB keeps all of it when the file is deleted. XFS frees
    block by block. Source: Linux ``include/uapi/linux/btrfs.h``; no other filesystem answers this ioctl.
    """
    try:
        fcntl.ioctl(fd, _BTRFS_IOC_FS_INFO, bytes(_BTRFS_IOC_FS_INFO_BYTES))
    except OSError:
        return False
    return True
