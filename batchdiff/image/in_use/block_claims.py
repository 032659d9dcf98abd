"""Exclusive claims on block devices: detect that the kernel uses a device, or keep the kernel from using it.

Mounted filesystems, LVM, RAID and the like open their devices exclusively. So an exclusive open fails while one of
them uses the device or a partition of it; a successful one keeps them out until it is closed. Plain opens, such as
QEMU's, still work. Source: open(2), O_EXCL.
"""

from __future__ import annotations

import errno
import os

from batchdiff.linux.mounts import mounts_of


def claim(fd: int) -> int | None:
    """Claim an open block device; return the claim's descriptor, or None if the device is claimed already.

    :raises OSError: the device cannot be opened again.
    """
    try:
        # Not by path: by now, the path may name another device.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return None
        raise


def claimant(fd: int) -> str:
    """Return what has claimed a block device, as a clause for a message."""
    found = mounts_of(os.fstat(fd).st_rdev)
    if found:
        return f"it is mounted at {found[0].point}"
    return (
        "something has claimed it: it is mounted where batchdiff cannot see it (such as in a container), one of"
        " its partitions is mounted, or LVM, RAID or a program is using it"
    )


def is_only_mounted_read_only(fd: int) -> bool:
    """Return whether a block device is mounted and the filesystem itself, not just the mount, is read-only."""
    found = mounts_of(os.fstat(fd).st_rdev)
    return bool(found) and all(mount.read_only for mount in found)
