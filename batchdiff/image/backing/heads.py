"""A cache of the names in image headers, which are needed again before each original is deleted."""

from __future__ import annotations

import os
import stat
import time
from typing import TypeAlias

from batchdiff.files.identity import Identity, identity_in
from batchdiff.foreign import vhdx_parent
from batchdiff.foreign.header import ReadAt
from batchdiff.image.backing.named_files import (
    FIRST,
    Named,
    bytes_needed,
    identified,
    identifier_in,
    may_have_footer,
    names_in,
)
from batchdiff.units import SECTOR

_State: TypeAlias = tuple[int, int, int]

_SETTLED_NS = 2_000_000_000
"""Only files unchanged for this long are cached: within one tick of the filesystem's clock, a further change
leaves the times as they are."""


class Heads:
    """A cache of the names in images, by each image's identity, size, mtime and ctime."""

    def __init__(self) -> None:
        self._known: dict[Identity, tuple[_State, tuple[Named, ...]]] = {}

    def names_nothing(self, status: os.stat_result) -> bool:
        """Return whether the file with that status is cached, and names no other file."""
        known = self._known.get(identity_in(status))
        return known is not None and not known[1] and known[0] == _state(status)

    def names(self, path: str, status: os.stat_result) -> tuple[Named, ...]:
        """Return the files that the file with that status names; none if it is missing.

        A block device is read every time, because its times do not change with its content.

        :raises OSError: the path is a symbolic link, or the file cannot be read, so it could name anything.
        """
        known = self._known.get(identity_in(status))
        if known is not None and known[0] == _state(status):
            return known[1]
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return ()
        try:
            now = os.fstat(fd)
            is_device = stat.S_ISBLK(now.st_mode)
            names = _names_in(fd) if is_device or stat.S_ISREG(now.st_mode) else ()
        finally:
            os.close(fd)
        if not is_device and time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) > _SETTLED_NS:
            self._known[identity_in(now)] = (_state(now), names)
        return names


def identifier_of(fd: int) -> str | None:
    """Return the identifier by which images can name an open file as their parent; None if it has none.

    :raises OSError: the file cannot be read.
    """
    head, size = os.pread(fd, FIRST, 0), os.lseek(fd, 0, os.SEEK_END)
    if head.startswith(vhdx_parent.MARK):
        guid = vhdx_parent.own_guid(_reader(fd))
        return identified(guid) if guid else None
    last = os.pread(fd, SECTOR, max(size - SECTOR, 0)) if may_have_footer(head) else b""
    return identifier_in(head, last)


def _names_in(fd: int) -> tuple[Named, ...]:
    head = _head(fd)
    if head.startswith(vhdx_parent.MARK):
        return tuple(Named(identified(guid), ends_there=True) for guid in vhdx_parent.parent_guids(_reader(fd)))
    return names_in(head)


def _reader(fd: int) -> ReadAt:
    return lambda offset, length: os.pread(fd, length, offset)


def _head(fd: int) -> bytes:
    head = os.pread(fd, FIRST, 0)
    needed = bytes_needed(head)
    return head if needed <= FIRST else os.pread(fd, needed, 0)


def _state(status: os.stat_result) -> _State:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
