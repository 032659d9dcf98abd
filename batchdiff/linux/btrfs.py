"""The extents of a file on btrfs as the filesystem's tree records them.

::

    file          | 4 KiB of X | 128 KiB of Y | 8 KiB of X |
    on disk       X: 64 KiB, kept whole while any part of it is used     Y: 20 KiB, compressed

FIEMAP reports lengths in the file. The tree also has lengths on disk, and lists an extent once for each part of it
that the file uses. Searching the tree needs CAP_SYS_ADMIN.

Source: Linux ``include/uapi/linux/btrfs.h`` (BTRFS_IOC_TREE_SEARCH_V2) and ``include/uapi/linux/btrfs_tree.h``
(struct btrfs_file_extent_item).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.linux.fiemap import physical_extents

TREE_SEARCH = 0xC0709411
"""BTRFS_IOC_TREE_SEARCH_V2."""

_FS_INFO = 0x8400941F
_FS_INFO_BYTES, _UUID_AT = 1024, 16

_KEY = struct.Struct("=7Q4I4Q")
_ARGUMENTS = struct.Struct("=7Q4I4QQ")
_HEADER = struct.Struct("=QQQII")
_ON_DISK = struct.Struct("<QQBBHBQQQQ")
"""struct btrfs_file_extent_item."""

_TYPE_AT = 20

_EXTENT_DATA = 108
_INLINE = 0
_BUFFER = 1 << 18
_LAST = (1 << 64) - 1


class StoredExtent(NamedTuple):
    """``length`` bytes of a file from ``logical`` on, in an extent of ``disk_bytes`` at address ``physical``."""

    logical: int
    length: int
    physical: int
    disk_bytes: int


def is_btrfs(fd: int) -> bool:
    """Return whether an open file is on btrfs: no other filesystem supports BTRFS_IOC_FS_INFO."""
    try:
        fcntl.ioctl(fd, _FS_INFO, bytes(_FS_INFO_BYTES))
    except OSError:
        return False
    return True


def filesystem_uuid(fd: int) -> bytes:
    """Return the UUID of a file's btrfs filesystem, the same in all subvolumes; empty if unknown."""
    try:
        found = fcntl.ioctl(fd, _FS_INFO, bytes(_FS_INFO_BYTES))
    except OSError:
        return b""
    return found[_UUID_AT : _UUID_AT + 16]


def stored_extents(fd: int, path: str) -> Iterator[StoredExtent]:
    """Yield a file's extents on btrfs in the order of their offsets, except holes and inline data.

    :raises OSError: the tree cannot be searched; EPERM without CAP_SYS_ADMIN.
    :raises ImageError: FIEMAP fails.
    """
    # This writes the file out and updates the tree: even the extents of a synced file may be only in the log.
    physical_extents(fd, path, 0, 1)
    inode, start = os.fstat(fd).st_ino, 0
    while True:
        buffer = bytearray(_ARGUMENTS.size + _BUFFER)
        # Tree 0 is that of the file's own subvolume.
        key = (0, inode, inode, start, _LAST, 0, _LAST, _EXTENT_DATA, _EXTENT_DATA, 0xFFFFFFFF, 0, 0, 0, 0, 0)
        _ARGUMENTS.pack_into(buffer, 0, *key, _BUFFER)
        fcntl.ioctl(fd, TREE_SEARCH, buffer)
        count = _KEY.unpack_from(buffer)[9]
        if not count:
            return
        at = _ARGUMENTS.size
        for _ in range(count):
            _, _, start, _, length = _HEADER.unpack_from(buffer, at)
            found = _parsed(buffer, at + _HEADER.size, start)
            if found is not None:
                yield found
            at += _HEADER.size + length
        start += 1


def _parsed(buffer: bytearray, at: int, logical: int) -> StoredExtent | None:
    # Look at the type first: an item with inline data may be too short for the other fields.
    if buffer[at + _TYPE_AT] == _INLINE:
        return None
    *_, physical, disk_bytes, _, length = _ON_DISK.unpack_from(buffer, at)
    return StoredExtent(logical, length, physical, disk_bytes) if physical else None
