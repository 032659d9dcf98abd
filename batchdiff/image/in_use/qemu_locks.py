"""QEMU's image locks: those of others on an image, and our own.

::

    byte      100   101    102              103         of the file, even if it is not that long
              200   201    202              203
              read  write  write unchanged  resize

A read lock on byte 100 + i means "I may do this", and one on byte 200 + i means "no one else may". As a write lock
conflicts with any other lock, testing whether one could be taken (F_OFD_GETLK) shows the locks of others. Locks
of one open file description (OFD) never conflict with each other, and end when its last descriptor is closed.

Source: QEMU ``block/file-posix.c`` (raw_apply_lock_bytes), ``include/block/block-common.h`` (BLK_PERM_...).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import struct
from typing import NamedTuple

from batchdiff.errors import advice_on_limit

_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, start, length (0: to the end), process (0 for OFD locks)."""

_MAY, _OTHERS_MAY_NOT = 100, 200
_ALL_PERMISSIONS = 64
"""QEMU keeps permissions as the bits of a 64-bit number."""

_END = _OTHERS_MAY_NOT + _ALL_PERMISSIONS
_ELSEWHERE = ((0, _MAY), (_END, 0))
"""Start and length of the ranges outside QEMU's bytes."""


class Permission(enum.IntEnum):
    """A permission; its value is added to 100 or 200."""

    READ = 0
    WRITE = 1
    WRITE_UNCHANGED = 2
    RESIZE = 3


CHANGES = frozenset({Permission.WRITE, Permission.WRITE_UNCHANGED, Permission.RESIZE})

_OURS = (
    _MAY + Permission.READ,
    _OTHERS_MAY_NOT + Permission.WRITE,
    _OTHERS_MAY_NOT + Permission.RESIZE,
)
"""The bytes that QEMU itself locks to read a qcow2 image."""


class OthersLocks(NamedTuple):
    """The permissions that others hold, and those that they deny.

    ``foreign``: whether there are write locks outside QEMU's bytes, or locks that reach from outside into QEMU's
    bytes and may hide QEMU's own locks. ``unknown``: why locks cannot be seen; empty if they can.
    """

    may: frozenset[Permission] = frozenset()
    forbid: frozenset[Permission] = frozenset()
    foreign: bool = False
    unknown: str = ""


class _Found(enum.Enum):
    NONE = "none"
    QEMUS = "within QEMU's bytes"
    FOREIGN = "reaches outside QEMU's bytes"


def others_locks(fd: int) -> OthersLocks:
    """Return the locks of others on an open file.

    :raises OSError: a limit on memory is reached.
    """
    try:
        may = {what: _lock(fd, _MAY + what) for what in Permission}
        forbid = {what: _lock(fd, _OTHERS_MAY_NOT + what) for what in Permission}
        elsewhere = [_lock(fd, *place, against=fcntl.F_RDLCK) for place in _ELSEWHERE]
    except OSError as error:
        if advice_on_limit(error):
            raise
        return OthersLocks(unknown=f"its filesystem does not support locks ({error.strerror})")
    return OthersLocks(
        may=frozenset(what for what, found in may.items() if found is _Found.QEMUS),
        forbid=frozenset(what for what, found in forbid.items() if found is _Found.QEMUS),
        foreign=_Found.FOREIGN in {*may.values(), *forbid.values(), *elsewhere},
    )


def take_locks(fd: int) -> bool:
    """Take locks that keep QEMU from writing to a file or resizing it.

    Return False, and hold none of them, if another program's locks conflict. Return True even if locks are not
    supported.

    :raises OSError: a limit on memory is reached.
    """
    try:
        for byte in _OURS:
            _set(fd, fcntl.F_RDLCK, byte)
    except OSError as error:
        release_locks(fd)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        if advice_on_limit(error):
            raise
    return True


def release_locks(fd: int) -> None:
    """Release the locks of :func:`take_locks`."""
    with contextlib.suppress(OSError):  # a filesystem without locks has none to release
        for byte in _OURS:
            _set(fd, fcntl.F_UNLCK, byte)


def _set(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, 0, byte, 1, 0))


def _lock(fd: int, start: int, length: int = 1, *, against: int = fcntl.F_WRLCK) -> _Found:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(against, 0, start, length, 0))
    kind, _, first, size, _ = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return _Found.NONE
    return _Found.QEMUS if first >= _MAY and 0 < size <= _END - first else _Found.FOREIGN
