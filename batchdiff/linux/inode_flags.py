"""Give a new file the inode flags, allocation hints and project of the file whose place it takes.

::

    folder (SYNC, COMPR)        --inherited--> new file    undone, unless the original has the flag too
    folder (project 42)         --inherited--> new file    kept: the folder refuses files of other projects
    original (NOCOW, NODUMP)    --copied-----> new file    never IMMUTABLE or APPEND, which lock a file

Source: ioctl_iflags(2), ioctl_fsgetxattr(2), Linux ``include/uapi/linux/fs.h``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from batchdiff.linux.inode_locks import GET_FLAGS, GET_MORE, INHERITS_PROJECT

_SET_FLAGS = 0x40086602
_SET_MORE = 0x401C5820
_FLAGS, _MORE = struct.Struct("=I"), struct.Struct("=5I8x")

_NOCOW = 0x00800000

_EARLY = {0x00000004: "COMPR", 0x00000400: "NOCOMP", _NOCOW: "NOCOW", 0x02000000: "DAX"}
"""Flags that must be set before the first byte is written."""

_LATE = {
    0x00000001: "SECRM",
    0x00000002: "UNRM",
    0x00000008: "SYNC",
    0x00000040: "NODUMP",
    0x00000080: "NOATIME",
    0x00004000: "JOURNAL_DATA",
    0x00008000: "NOTAIL",
}
"""Flags that are set last: SYNC and JOURNAL_DATA slow down every write."""

_PLACES = 0x00000001 | 0x00002000 | 0x00004000
"""REALTIME, NODEFRAG, FILESTREAM."""

_UNITS = 0x00000800 | 0x00010000
"""EXTSIZE, COWEXTSIZE: not copied. By default, QEMU sets an extent size of 1 MiB on images that it creates, and a
thin overlay with that extent size can take twice the space."""


_PREALLOC = 0x00000002
"""PREALLOC: XFS sets it if a program reserves space with fallocate(2), even just to zero part of the file."""


class _More(NamedTuple):
    """``struct fsxattr``; sizes in bytes."""

    flags: int = 0
    extent_size: int = 0
    extents: int = 0
    project: int = 0
    cow_extent_size: int = 0

    def hints(self) -> tuple[int, int, int]:
        return self.flags & (_PLACES | _UNITS), self.extent_size, self.cow_extent_size

    def without_units(self) -> _More:
        return self._replace(flags=self.flags & ~_UNITS, extent_size=0, cow_extent_size=0)


def set_early_flags(source: int, target: int) -> list[str]:
    """Give an empty file the source's project, hints in ``_PLACES`` and flags in ``_EARLY``; return what failed.

    Also clear the hints in ``_UNITS`` and, if possible, the flags in ``_LATE``. If the source's project
    cannot be read (a block device, a file on NFS), the target's stays.
    """
    # Errors are ignored here: set_late_flags reports each flag that is still set only on the target.
    _set_flags(target, 0, _LATE)
    more = _more_if_any(source)
    return [
        *_set_flags(target, _flags(source), _EARLY),
        *_set_hints(target, (more or _More()).without_units()),
        *([] if more is None else _set_project(target, more.project)),
    ]


def set_late_flags(source: int, target: int) -> list[str]:
    """Match the source's flags in ``_LATE``, and return what failed."""
    return _set_flags(target, _flags(source), _LATE)


def is_overwritten(fd: int) -> bool:
    """Return whether a file has the flag NOCOW.

    btrfs overwrites the unshared blocks of such a file in place, and keeps no checksums of its data.
    """
    return bool(_flags(fd) & _NOCOW)


def was_preallocated(fd: int) -> bool:
    """Return whether XFS has noted that a program reserved space for a file."""
    return bool(_more(fd).flags & _PREALLOC)


def _set_flags(target: int, wanted: int, names: dict[int, str]) -> list[str]:
    """Set or clear the named flags, and return what failed.

    Change one at a time, because a filesystem refuses the whole call for one flag that it does not know. Clear
    flags before setting others, because COMPR excludes NOCOW.
    """
    differing = [flag for flag in names if (wanted ^ _flags(target)) & flag]
    lost = []
    for flag in sorted(differing, key=lambda flag: wanted & flag):
        reason = _try(target, _SET_FLAGS, _FLAGS.pack(_flags(target) ^ flag))
        # Compare again: btrfs ignores NOCOW without an error if the file is not empty.
        if (wanted ^ _flags(target)) & flag:
            without = "" if wanted & flag else "the file free of "
            lost.append(f"{without}the flag {names[flag]}{reason}")
    return lost


def _set_hints(target: int, wanted: _More) -> list[str]:
    now = _more(target)
    if now.hints() == wanted.hints():
        return []
    flags = now.flags & ~(_PLACES | _UNITS) | wanted.flags & (_PLACES | _UNITS)
    changed = now._replace(flags=flags, extent_size=wanted.extent_size, cow_extent_size=wanted.cow_extent_size)
    reason = _try(target, _SET_MORE, _MORE.pack(*changed))
    return [] if _more(target).hints() == wanted.hints() else [f"the allocation hints of XFS{reason}"]


def _set_project(target: int, wanted: int) -> list[str]:
    """Set a project, unless the folder imposes its own, or cannot be opened.

    A file of another project could not be renamed in a folder that imposes one.
    """
    now = _more(target)
    if now.project == wanted:
        return []
    gives = _folder_gives_project(target)
    if gives is not False:
        allows = "allows" if gives else "cannot be read, and may allow"
        return [f"quota project {wanted} (the folder of the file {allows} only project {now.project})"]
    reason = _try(target, _SET_MORE, _MORE.pack(*now._replace(project=wanted)))
    return [] if _more(target).project == wanted else [f"quota project {wanted}{reason}"]


def _folder_gives_project(fd: int) -> bool | None:
    """Return whether a file's folder gives its project to new files; None if the folder cannot be opened."""
    try:
        folder = os.open(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return bool(_more(folder).flags & INHERITS_PROJECT)
    finally:
        os.close(folder)


def _flags(fd: int) -> int:
    try:
        return int(_FLAGS.unpack(fcntl.ioctl(fd, GET_FLAGS, _FLAGS.pack(0)))[0])
    except OSError:
        return 0


def _more(fd: int) -> _More:
    return _more_if_any(fd) or _More()


def _more_if_any(fd: int) -> _More | None:
    try:
        return _More(*_MORE.unpack(fcntl.ioctl(fd, GET_MORE, _MORE.pack(*_More()))))
    except OSError:
        return None


def _try(fd: int, request: int, argument: bytes) -> str:
    """Make a call, and return the reason in parentheses if it fails; empty if it succeeds."""
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        return f" ({os.strerror(errno.EOPNOTSUPP) if error.errno == errno.ENOTTY else error.strerror})"
    return ""
