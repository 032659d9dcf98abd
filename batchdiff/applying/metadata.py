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


def prepare(source: int, target: int) -> None:
    """Sets what only an empty file can be given: NOCOW, where the source has it."""
    with contextlib.suppress(OSError):  # a filesystem without such flags has none to lose
        flags = array.array("l", [0])
        fcntl.ioctl(source, _GET_FLAGS, flags)
        if flags[0] & _NOCOW:
            own = array.array("l", [0])
            fcntl.ioctl(target, _GET_FLAGS, own)
            fcntl.ioctl(target, _SET_FLAGS, array.array("l", [own[0] | _NOCOW]))


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
