"""A lasting identifier of a filesystem: unlike a device number, it survives reboots and remounts.

::

    ext4, XFS, tmpfs, overlayfs   FS_IOC_GETFSUUID (Linux 6.9), unless that UUID is all zeros
    btrfs                         the UUID of the subvolume, because each subvolume has its own inode numbers
    otherwise, on a block device  /dev/disk/by-uuid, which udev maintains
    others, such as NFS           none (""): see :mod:`.fingerprint`

Source: Linux ``include/uapi/linux/fs.h`` (struct fsuuid2) and ``include/uapi/linux/btrfs.h`` (struct
btrfs_ioctl_get_subvol_info_args).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import lru_cache

_FS_IOC_GETFSUUID = 0x80111500
_BTRFS_IOC_GET_SUBVOL_INFO = 0x81F8943C
_SUBVOLUME_INFO_BYTES, _SUBVOLUME_UUID_AT = 504, 296
_BY_UUID = "/dev/disk/by-uuid"


def filesystem_id(fd: int) -> str:
    """Return the identifier of an open file's filesystem; empty if none is known."""
    # The subvolume first: if btrfs came to report the filesystem's UUID, all subvolumes would have the same one.
    return _subvolume_uuid(fd) or _filesystem_uuid(fd) or _udev_uuid(os.fstat(fd).st_dev)


def filesystem_id_at(folder: str, device: int) -> str:
    """Return the identifier of a file's filesystem without opening the file, which could break a lease.

    Empty if none is known, or if the folder is not on ``device``: the file can be a mount point.
    """
    try:
        fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return filesystem_id(fd) if os.fstat(fd).st_dev == device else ""
    finally:
        os.close(fd)


def _filesystem_uuid(fd: int) -> str:
    answer = bytearray(17)  # the UUID's length, then up to 16 bytes
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, answer)
    except OSError:
        return ""
    uuid = bytes(answer[1 : 1 + answer[0]])
    return f"uuid:{uuid.hex()}" if any(uuid) else ""


def _subvolume_uuid(fd: int) -> str:
    answer = bytearray(_SUBVOLUME_INFO_BYTES)
    try:
        fcntl.ioctl(fd, _BTRFS_IOC_GET_SUBVOL_INFO, answer)
    except OSError:
        return ""
    uuid = bytes(answer[_SUBVOLUME_UUID_AT : _SUBVOLUME_UUID_AT + 16])
    return f"subvolume:{uuid.hex()}" if any(uuid) else ""


@lru_cache(maxsize=64)
def _udev_uuid(device: int) -> str:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(_BY_UUID)):
            with contextlib.suppress(OSError):  # a link that udev is about to change
                if os.stat(os.path.join(_BY_UUID, name)).st_rdev == device:
                    return f"uuid:{name.replace('-', '').lower()}"
    return ""
