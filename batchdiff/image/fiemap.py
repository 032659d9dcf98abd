"""Which blocks a file has on its disk: the FIEMAP ioctl.

Source: Linux ``Documentation/filesystems/fiemap.rst`` and ``include/uapi/linux/fiemap.h``.
"""

from __future__ import annotations

import array
import enum
import errno
import fcntl
import struct
from collections.abc import Iterator
from typing import NamedTuple

_FS_IOC_FIEMAP = 0xC020660B
_FLAG_SYNC = 1
_HEADER = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_AT_ONCE = 1024
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}


class ExtentFlag(enum.IntFlag):
    """The flags that matter here."""

    LAST = 0x1
    SHARED = 0x2000


class PhysicalExtent(NamedTuple):
    """One run of a file on its disk, in bytes."""

    logical: int
    physical: int
    length: int
    flags: int


def physical_extents(fd: int) -> Iterator[PhysicalExtent] | None:
    """The extents of a file, written to disk first; None where the filesystem does not tell."""
    try:
        first = _request(fd, 0)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return _all(fd, first)


def _all(fd: int, found: list[PhysicalExtent]) -> Iterator[PhysicalExtent]:
    while found:
        yield from found
        last = found[-1]
        if last.flags & ExtentFlag.LAST:
            return
        found = _request(fd, last.logical + last.length)


def _request(fd: int, start: int) -> list[PhysicalExtent]:
    size = _HEADER.size + _AT_ONCE * _EXTENT.size
    buffer = array.array("B", bytes(size))
    _HEADER.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _FLAG_SYNC, 0, _AT_ONCE, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
    count = _HEADER.unpack_from(buffer)[3]
    records = _EXTENT.iter_unpack(memoryview(buffer)[_HEADER.size : _HEADER.size + count * _EXTENT.size])
    return [PhysicalExtent(record[0], record[1], record[2], record[5]) for record in records]
