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

from batchdiff.errors import ImageError

REQUEST = 0xC020660B
"""FS_IOC_FIEMAP."""

_FLAG_SYNC = 1
_HEADER = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_AT_ONCE = 256
_WHOLE = (1 << 63) - 1
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}


class ExtentFlag(enum.IntFlag):
    """What the filesystem says of an extent."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELAYED = 0x4
    ENCODED = 0x8
    ENCRYPTED = 0x80
    NOT_ALIGNED = 0x100
    INLINE = 0x200
    TAIL = 0x400
    UNWRITTEN = 0x800
    SHARED = 0x2000


class PhysicalExtent(NamedTuple):
    """One run of a file on its disk, in bytes."""

    logical: int
    physical: int
    length: int
    flags: int


def physical_extents(fd: int, path: str, start: int = 0, end: int = _WHOLE) -> Iterator[PhysicalExtent] | None:
    """The extents of a file that hold bytes ``start`` to ``end``; None where the filesystem does not tell.

    What is not on disk yet is written there first.

    :raises ImageError: that fails, or the disk cannot give the filesystem's own records; here or later.
    """
    try:
        first = _request(fd, start, end)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise _untold(path, error) from error
    return _all(fd, path, first, end)


def _untold(path: str, error: OSError) -> ImageError:
    return ImageError(
        f"cannot find out where {path} is on its disk",
        why=error.strerror or str(error),
        remedy="The disk or the filesystem below it has a fault, or is full; look into the kernel log.",
    )


def _all(fd: int, path: str, found: list[PhysicalExtent], end: int) -> Iterator[PhysicalExtent]:
    while found:
        yield from found
        last = found[-1]
        following = last.logical + last.length
        if last.flags & ExtentFlag.LAST or following >= end or len(found) < _AT_ONCE:
            return
        try:
            found = _request(fd, following, end)
        except OSError as error:
            raise _untold(path, error) from error


def _request(fd: int, start: int, end: int) -> list[PhysicalExtent]:
    buffer = array.array("B", bytes(_HEADER.size + _AT_ONCE * _EXTENT.size))
    _HEADER.pack_into(buffer, 0, start, end - start, _FLAG_SYNC, 0, _AT_ONCE, 0)
    fcntl.ioctl(fd, REQUEST, buffer)
    count = _HEADER.unpack_from(buffer)[3]
    records = _EXTENT.iter_unpack(memoryview(buffer)[_HEADER.size : _HEADER.size + count * _EXTENT.size])
    return [PhysicalExtent(record[0], record[1], record[2], record[5]) for record in records]
