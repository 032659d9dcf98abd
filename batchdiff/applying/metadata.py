"""Gives a new file the owner, mode, extended attributes and NOCOW flag of the one whose place it takes.

Access control lists and SELinux labels are extended attributes. NOCOW: btrfs(5), ioctl_iflags(2).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import stat

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_NOCOW = 0x00800000

_NOT_OURS = "trusted.libvirt."
"""libvirt's own bookkeeping of who uses a file: true of the original only."""


def prepare(source: int, target: int) -> list[str]:
    """Sets what only an empty file can be given: NOCOW, where the source has it; names it where that fails."""
    try:
        if not _flags(source) & _NOCOW:
            return []
    except OSError:  # a filesystem without such flags has none to lose
        return []
    try:
        fcntl.ioctl(target, _SET_FLAGS, array.array("l", [_flags(target) | _NOCOW]))
    except OSError as error:
        return [f"the flag NOCOW ({error.strerror})"]
    # btrfs says nothing where a file is no longer empty.
    return [] if _flags(target) & _NOCOW else ["the flag NOCOW"]


def _flags(fd: int) -> int:
    found = array.array("l", [0])
    fcntl.ioctl(fd, _GET_FLAGS, found)
    return found[0]


def copy_metadata(source: int, target: int) -> list[str]:
    """Copies between descriptors; names what could not be kept."""
    info = os.fstat(source)
    lost = []
    try:
        os.fchown(target, info.st_uid, info.st_gid)
    except OSError as error:
        lost.append(f"the owner {info.st_uid}:{info.st_gid} ({error.strerror})")
    for name in _attributes(source):
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            lost.append(f"the attribute {name} ({error.strerror})")
    # After the owner: chown clears the set-id bits, and an ACL's mask shows in the mode.
    if stat.S_ISREG(info.st_mode):
        os.fchmod(target, stat.S_IMODE(info.st_mode))
    return lost


def _attributes(fd: int) -> list[str]:
    names: list[str] = []
    with contextlib.suppress(OSError):  # a filesystem without extended attributes has none to lose
        names = os.listxattr(fd)
    return [name for name in names if not name.startswith(_NOT_OURS)]
