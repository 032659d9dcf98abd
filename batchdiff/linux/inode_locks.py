"""Attributes of a file or folder that stop even root from changing it, and its quota project.

::

    i  immutable     no write, rename, unlink, link, chmod; in a folder, no name can be added, changed or removed
    a  append-only   no rename, unlink, link, chmod; writes only at the end; in a folder, names can only be added
    project          a folder whose new files inherit it refuses files of other projects (rename, link: EXDEV)

Source: ioctl_iflags(2), chattr(1), ioctl_fsgetxattr(2), Linux ``include/uapi/linux/fs.h``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from typing import NamedTuple

GET_FLAGS = 0x80086601
"""Request for the flags of chattr(1)."""
GET_MORE = 0x801C581F
"""Request for ``struct fsxattr``."""

_FLAGS, _MORE = struct.Struct("=I"), struct.Struct("=5I8x")
_IMMUTABLE, _APPEND = 0x00000010, 0x00000020
INHERITS_PROJECT = 0x00000200
"""The flag of a folder whose new files belong to its project."""


class InodeLock(NamedTuple):
    """An attribute that locks a file: its letter for chattr(1), and its name."""

    letter: str
    word: str


class Project(NamedTuple):
    """A quota project. ``inherited``: whether it is the project of a folder whose new files inherit it."""

    number: int
    inherited: bool


def lock_in(fd: int) -> InodeLock | None:
    """Return the attribute that locks an open file or folder; None if none is found."""
    with contextlib.suppress(OSError):
        flags = _FLAGS.unpack(fcntl.ioctl(fd, GET_FLAGS, _FLAGS.pack(0)))[0]
        if flags & _IMMUTABLE:
            return InodeLock("i", "immutable")
        if flags & _APPEND:
            return InodeLock("a", "append-only")
    return None


def lock_on(path: str) -> InodeLock | None:
    """Return the same as :func:`lock_in` for a path."""
    with contextlib.suppress(OSError, ValueError):
        fd = _opened(path)
        try:
            return lock_in(fd)
        finally:
            os.close(fd)
    return None


def project_of(path: str) -> Project | None:
    """Return the quota project of a file or folder; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError):
        fd = _opened(path)
        try:
            flags, *_, project, _hint = _MORE.unpack(fcntl.ioctl(fd, GET_MORE, bytes(_MORE.size)))
            return Project(project, bool(flags & INHERITS_PROJECT))
        finally:
            os.close(fd)
    return None


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
