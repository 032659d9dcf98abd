"""Block devices: whether the kernel itself uses one, and keeping it from doing so.

A mounted filesystem, LVM, RAID and the like open their devices exclusively. So an exclusive open fails while one
of them has the device or a partition of it, and keeps them out as long as it lasts; plain opens, QEMU's among
them, go on. Source: open(2), O_EXCL.
"""

from __future__ import annotations

import errno
import os

from batchdiff.image.mounts import mounts_of


def claim(fd: int) -> int | None:
    """A second descriptor of an open block device, which keeps mounts out until closed; None where one is there.

    :raises OSError: the device cannot be opened again.
    """
    try:
        # By the descriptor: whatever stands at the path by now, this is the same device.
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return None
        raise


def claimant(fd: int) -> str:
    """Who has claimed a block device, in words."""
    found = mounts_of(os.fstat(fd).st_rdev)
    if found:
        return f"it is mounted at {found[0].point}"
    return (
        "the kernel uses it: it is mounted out of sight (say, in a container), a partition is mounted, or LVM,"
        " RAID or another program has claimed it"
    )


def is_only_mounted_read_only(fd: int) -> bool:
    """Whether what has claimed a block device are filesystems that are read-only as a whole."""
    found = mounts_of(os.fstat(fd).st_rdev)
    return bool(found) and all(mount.read_only for mount in found)
