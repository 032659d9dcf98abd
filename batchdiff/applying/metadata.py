"""Gives an overlay the owner, mode and extended attributes of its original."""

from __future__ import annotations

import contextlib
import os
import stat

_NOT_OURS = "trusted.libvirt."
"""libvirt's own bookkeeping of who uses a file: true of the original only."""


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
