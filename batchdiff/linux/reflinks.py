"""Find out whether files can share blocks, without writing anything.

======  ============================================================================
btrfs   yes, unless only one of them has checksums (chattr +C turns these off)
XFS     yes, if the filesystem was made with reflink=1, as its geometry shows
others  yes, unless a trial call, which is meant to fail, shows that they cannot
======  ============================================================================

Source: ``struct xfs_fsop_geom`` in Linux ``fs/xfs/libxfs/xfs_fs.h``; ``struct btrfs_ioctl_fs_info_args`` in
``include/uapi/linux/btrfs.h``; btrfs(5), "nodatacow".
"""

from __future__ import annotations

import enum
import fcntl
import os
import stat
import struct

from batchdiff.linux.btrfs import filesystem_uuid, is_btrfs
from batchdiff.linux.dedupe_range import is_supported
from batchdiff.linux.inode_flags import is_overwritten

_XFS_GEOMETRY = 0x80705864
"""XFS_IOC_FSGEOMETRY_V1."""
_XFS_GEOMETRY_BYTES, _XFS_FLAGS_AT, _XFS_REFLINK = 112, 92, 1 << 20


class NoSharing(enum.Enum):
    """The reason why two files cannot share blocks."""

    BLOCK_DEVICE = "at least one of them is a block device"
    TWO_FILESYSTEMS = "they are on different filesystems"
    NOT_SUPPORTED = "their filesystem cannot share blocks"
    CHECKSUMS = "only one of them has checksums"


def why_not_shared(source: int, target: int) -> NoSharing | None:
    """Return why two open files cannot share blocks; None if they can, as far as that is visible."""
    one, other = os.fstat(source), os.fstat(target)
    if not (stat.S_ISREG(one.st_mode) and stat.S_ISREG(other.st_mode)):
        return NoSharing.BLOCK_DEVICE
    # Each subvolume of btrfs has its own device number.
    if one.st_dev != other.st_dev and filesystem_uuid(source) != (filesystem_uuid(target) or None):
        return NoSharing.TWO_FILESYSTEMS
    if not _is_able(source, target):
        return NoSharing.NOT_SUPPORTED
    if is_btrfs(source) and is_overwritten(source) != is_overwritten(target):
        return NoSharing.CHECKSUMS
    return None


def _is_able(source: int, target: int) -> bool:
    if is_btrfs(source):
        return True
    try:
        geometry = fcntl.ioctl(source, _XFS_GEOMETRY, bytes(_XFS_GEOMETRY_BYTES))
    except OSError:
        # None counts as yes: if only permission is missing here, apply may run with more rights.
        return is_supported(source, target) is not False
    return bool(struct.unpack_from("=I", geometry, _XFS_FLAGS_AT)[0] & _XFS_REFLINK)
