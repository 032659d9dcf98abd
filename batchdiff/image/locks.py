"""QEMU's image locks: what others may do with an image, and what they keep us from.

::

    byte      100   101    102              103         of the file, whether it is that long or not
              200   201    202              203
              read  write  write unchanged  resize

A read lock on byte 100 + i says "I may do this", one on 200 + i "nobody else may". Nobody ever takes a write
lock: asking whether one could be had (F_OFD_GETLK) shows what others hold. Locks belong to open files (OFD), so
our own are never in our own way, and they end with the process whatever kills it.

Source: QEMU ``block/file-posix.c`` (raw_apply_lock_bytes), ``include/block/block-common.h`` (BLK_PERM_...).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import struct
from typing import NamedTuple

_FLOCK = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, start, length (0: to the end), process (0 for OFD locks)."""

_MAY, _OTHERS_MAY_NOT = 100, 200
_ALL_PERMISSIONS = 64
"""Bytes that QEMU sets apart for permissions, of which it uses four."""

_ELSEWHERE = ((0, _MAY), (_OTHERS_MAY_NOT + _ALL_PERMISSIONS, 0))
"""Start and length of all bytes that QEMU never locks."""


class Permission(enum.IntEnum):
    """What QEMU's locks are about; the number is the byte's."""

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
"""What QEMU itself takes to read a qcow2 image: keeps writers out, and no reader."""


class OthersLocks(NamedTuple):
    """What others hold: what they may do, what they let nobody do; ``exclusive``: a lock that is not QEMU's."""

    may: frozenset[Permission]
    forbid: frozenset[Permission]
    exclusive: bool


def others_locks(fd: int) -> OthersLocks:
    """The locks of others on a file that is open for reading. Takes none.

    :raises OSError: the filesystem has no locks.
    """
    return OthersLocks(
        may=frozenset(what for what in Permission if _is_locked(fd, _MAY + what)),
        forbid=frozenset(what for what in Permission if _is_locked(fd, _OTHERS_MAY_NOT + what)),
        exclusive=any(_is_locked(fd, *place, against=fcntl.F_RDLCK) for place in _ELSEWHERE),
    )


def take_locks(fd: int) -> bool:
    """Keeps QEMU from writing and resizing, not from reading; False where another's lock forbids even that.

    :raises OSError: the filesystem has no locks.
    """
    try:
        for byte in _OURS:
            _set(fd, fcntl.F_RDLCK, byte)
    except OSError as error:
        release_locks(fd)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def release_locks(fd: int) -> None:
    """Gives back what :func:`take_locks` took."""
    with contextlib.suppress(OSError):  # a filesystem without locks has none to give back
        for byte in _OURS:
            _set(fd, fcntl.F_UNLCK, byte)


def _set(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, 0, byte, 1, 0))


def _is_locked(fd: int, start: int, length: int = 1, *, against: int = fcntl.F_WRLCK) -> bool:
    """Whether another's lock would be in the way of one of the kind ``against``."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(against, 0, start, length, 0))
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
