"""The extents of a file, as the FIEMAP ioctl reports them.

Source: Linux ``Documentation/filesystems/fiemap.rst`` and ``include/uapi/linux/fiemap.h``.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.frozen import frozen

REQUEST = 0xC020660B
"""FS_IOC_FIEMAP."""

_FLAG_SYNC = 1
_HEADER = struct.Struct("=QQLLLL")
_RECORD = np.dtype(
    [("logical", "i8"), ("physical", "i8"), ("length", "i8"), ("", "u8", 2), ("flags", "u4"), ("", "u4", 3)]
)
_AT_ONCE = 512
_WHOLE = (1 << 63) - 1
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS}


class ExtentFlag(enum.IntFlag):
    """Flags of an extent, ``FIEMAP_EXTENT_*``."""

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
    """``length`` bytes of a file from ``logical`` on; ``physical``: an address in the filesystem."""

    logical: int
    physical: int
    length: int
    flags: int


@frozen(eq=False)
class ExtentTable:
    """Extents of a file in columns, in the order of their offsets."""

    logical: npt.NDArray[np.int64]
    physical: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint32]

    def having(self, flags: int) -> ExtentTable:
        """Return the extents that have at least one of these flags."""
        return self.chosen(self.flags & flags != 0)

    def chosen(self, kept: npt.NDArray[np.bool_]) -> ExtentTable:
        """Return the extents for which ``kept`` is true."""
        return ExtentTable(self.logical[kept], self.physical[kept], self.length[kept], self.flags[kept])

    def equals(self, other: ExtentTable) -> bool:
        """Return whether both have equal extents in the same order."""
        names = PhysicalExtent._fields
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)


_NONE = np.empty(0, dtype=np.int64)
NO_EXTENTS = ExtentTable(_NONE, _NONE, _NONE, np.empty(0, dtype=np.uint32))

_Records = npt.NDArray[np.void]


def physical_extents(
    fd: int, path: str, start: int = 0, end: int = _WHOLE, *, having: int = 0
) -> Iterator[PhysicalExtent] | None:
    """Return the extents that overlap bytes ``start`` to ``end``; None if the filesystem does not report extents.

    The kernel first writes out data that is not on disk yet. ``having``: return only extents with at least one
    of these flags; 0 for all.

    :raises ImageError: the extents cannot be read; also raised by the iterator.
    """
    first = _first(fd, path, start, end)
    return None if first is None else _each(_all(fd, path, first, end), having)


def extent_table(fd: int, path: str, *, having: int) -> ExtentTable | None:
    """Return a file's extents as one table; ``having`` and None: see :func:`physical_extents`.

    :raises ImageError: the extents cannot be read.
    """
    first = _first(fd, path, 0, _WHOLE)
    if first is None:
        return None
    found = np.concatenate([_chosen(records, having) for records in _all(fd, path, first, _WHOLE)] or [first])
    return ExtentTable(*(found[name].copy() for name in PhysicalExtent._fields))


def _first(fd: int, path: str, start: int, end: int) -> _Records | None:
    try:
        return _request(fd, start, end)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise failed_map(path, error) from error


def _chosen(records: _Records, having: int) -> _Records:
    return records[records["flags"] & having != 0] if having else records


def _each(batches: Iterator[_Records], having: int) -> Iterator[PhysicalExtent]:
    for records in batches:
        chosen = _chosen(records, having)
        yield from map(PhysicalExtent, *(chosen[name].tolist() for name in PhysicalExtent._fields))


def failed_map(path: str, error: OSError) -> ImageError:
    """Return the error for a file whose extents cannot be listed."""
    return ImageError(
        f"cannot determine where {path} is on its disk",
        path=path,
        why=error.strerror or str(error),
        remedy="Its disk or filesystem has a fault, or is full; see the kernel log (`dmesg`).",
    )


def _all(fd: int, path: str, found: _Records, end: int) -> Iterator[_Records]:
    while len(found):
        yield found
        last = found[-1]
        following = int(last["logical"] + last["length"])
        if last["flags"] & ExtentFlag.LAST or following >= end or len(found) < _AT_ONCE:
            return
        try:
            found = _request(fd, following, end)
        except OSError as error:
            raise failed_map(path, error) from error


def _request(fd: int, start: int, end: int) -> _Records:
    buffer = bytearray(_HEADER.size + _AT_ONCE * _RECORD.itemsize)
    _HEADER.pack_into(buffer, 0, start, end - start, _FLAG_SYNC, 0, _AT_ONCE, 0)
    fcntl.ioctl(fd, REQUEST, buffer)
    return np.frombuffer(buffer, _RECORD, _HEADER.unpack_from(buffer)[3], _HEADER.size)
