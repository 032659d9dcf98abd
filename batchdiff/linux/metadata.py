"""Give a new file the owner, mode, attributes and flags of the file whose place it takes.

A new file inherits attributes and flags from its folder, and gets those of the other file in these steps::

    open(0600)        for its owner only: the mode also limits an inherited ACL
    prepare           clear what was inherited, set what must precede the first byte
      ... the image is written ...
    copy_metadata     flags, owner, attributes, and last the mode
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable

from batchdiff.linux.inode_flags import set_early_flags, set_late_flags

_ACL = "system.posix_acl_access"

_OF_ONE_FILE = (
    "trusted.libvirt.",  # libvirt's record of the owner and label before a VM used the file
    "security.ima",  # a digest or signature of the content
    "security.evm",  # an HMAC or signature of the inode's metadata
    "trusted.SGI_ACL_",  # XFS lists its ACL under this name too
    "trusted.overlay.",  # overlayfs: records such as where the file's data is
)
"""Prefixes of attributes that belong to one file only, or that the filesystem adds itself."""

_STORAGE = "btrfs."
"""The prefix of attributes that must be set before the first byte is written."""


def prepare(source: int, target: int) -> list[str]:
    """Clear inherited metadata of an empty file, and set what must precede the first byte.

    Return the lost flags, hints and project, as words for "could not keep ...".

    :raises OSError: attributes cannot be listed.
    """
    given = _attributes(source)
    for name in _attributes(target):
        if name == _ACL or name not in given:
            with contextlib.suppress(OSError):  # copy_metadata reports what is left
                os.removexattr(target, name)
    for name, value in given.items():
        if name.startswith(_STORAGE) and value is not None:
            with contextlib.suppress(OSError):
                os.setxattr(target, name, value)
    return set_early_flags(source, target)


def copy_metadata(source: int, target: int) -> list[str]:
    """Give a prepared and written file the source's metadata, except a block device's mode and ACL.

    If owner, group or ACL cannot be kept, the mode is narrowed, so that no user but the file's owner gains access.
    Return the differences that are left, as words for "could not keep ...".

    :raises OSError: attributes cannot be listed.
    """
    reasons: dict[str, str] = {}
    flags = set_late_flags(source, target)  # before the owner changes, which can take away the right to set them
    _copy_owner(source, target, reasons)
    _copy_attributes(source, target, reasons)
    _copy_mode(source, target, reasons)
    return [f"{what}{reasons.get(what, '')}" for what in _differences(source, target)] + flags


def limit_mode(target: int, others: Iterable[int]) -> None:
    """Narrow the mode of a file with content from ``others``, so that no user but its owner gains access to it.

    :raises OSError: attributes cannot be listed, or the mode cannot be changed.
    """
    info = os.fstat(target)
    mode = stat.S_IMODE(info.st_mode)
    for other in others:
        there = os.fstat(other)
        same = (there.st_uid, there.st_gid) == (info.st_uid, info.st_gid)
        same &= _attributes(other).get(_ACL) == _attributes(target).get(_ACL)
        mode &= stat.S_IMODE(there.st_mode) | ~0o077 if same else ~0o077
    if mode != stat.S_IMODE(info.st_mode):
        os.fchmod(target, mode)


def _copy_owner(source: int, target: int, reasons: dict[str, str]) -> None:
    info = os.fstat(source)
    if not _attempt(reasons, _owner(source), os.fchown, target, info.st_uid, info.st_gid):
        with contextlib.suppress(OSError):  # users can give a file to their own groups
            os.fchown(target, -1, info.st_gid)


def _copy_attributes(source: int, target: int, reasons: dict[str, str]) -> None:
    """Match the source's attributes, but copy no ACL to a file of another group."""
    given, found = _kept_attributes(source), _attributes(target)
    if os.fstat(target).st_gid != os.fstat(source).st_gid:
        given.pop(_ACL, None)
    for name, value in given.items():
        if value is None:
            reasons[_attribute(name)] = " (it cannot be read)"
        elif found.get(name) != value:
            _attempt(reasons, _attribute(name), os.setxattr, target, name, value)
    for name in found.keys() - _kept_attributes(source).keys():
        _attempt(reasons, _inherited(name), os.removexattr, target, name)


def _kept_attributes(source: int) -> dict[str, bytes | None]:
    """Return the source's attributes, but without a device's ACL, which controls access to a disk."""
    attributes = _attributes(source)
    if not stat.S_ISREG(os.fstat(source).st_mode):
        attributes.pop(_ACL, None)
    return attributes


def _copy_mode(source: int, target: int, reasons: dict[str, str]) -> None:
    """Set the mode last: chown clears its set-id bits, and setting an ACL changes its group bits."""
    # A device's mode controls access to a disk, so it is not copied.
    if stat.S_ISREG(os.fstat(source).st_mode):
        _attempt(reasons, _mode(source), os.fchmod, target, _safe_mode(source, target))


def _safe_mode(source: int, target: int) -> int:
    """Return the source's mode without bits that would add rights because owner, group or ACL was not kept."""
    old, new = os.fstat(source), os.fstat(target)
    mode = stat.S_IMODE(old.st_mode)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    acl = _attributes(source).get(_ACL, b"")
    if acl is None or acl != _attributes(target).get(_ACL, b""):
        return mode & ~0o077
    if old.st_gid != new.st_gid:
        # The old group's members now count as others, as the new group's members did before.
        shared = mode >> 3 & mode & 0o7
        return mode & ~0o077 | shared << 3 | shared
    return mode


def _differences(source: int, target: int) -> list[str]:
    old, new = os.fstat(source), os.fstat(target)
    given, found = _kept_attributes(source), _attributes(target)
    differing = [] if (old.st_uid, old.st_gid) == (new.st_uid, new.st_gid) else [_owner(source)]
    differing += [_attribute(name) for name, value in given.items() if value is None or found.get(name) != value]
    differing += [_inherited(name) for name in found if name not in given]
    if stat.S_ISREG(old.st_mode) and old.st_mode != new.st_mode:
        differing.append(_mode(source))
    return differing


def _owner(source: int) -> str:
    info = os.fstat(source)
    return f"the owner {info.st_uid}:{info.st_gid}"


def _mode(source: int) -> str:
    return f"the mode {stat.S_IMODE(os.fstat(source).st_mode):o}"


def _attribute(name: str) -> str:
    return f"the attribute {name}"


def _inherited(name: str) -> str:
    return f"the file free of the attribute {name}, which its folder sets"


def _attempt(reasons: dict[str, str], what: str, call: Callable[..., None], *arguments: object) -> bool:
    try:
        call(*arguments)
    except OSError as error:
        needs = "; that needs root or CAP_CHOWN" if call is os.fchown and os.geteuid() != 0 else ""
        reasons[what] = f" ({error.strerror}{needs})"
        return False
    return True


def _attributes(fd: int) -> dict[str, bytes | None]:
    """Return the extended attributes, except ``_OF_ONE_FILE``; a value that cannot be read is None.

    :raises OSError: they cannot be listed, so it is unknown who may read the file.
    """
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
            return {}
        raise
    return {name: _value(fd, name) for name in names if not name.startswith(_OF_ONE_FILE)}


def _value(fd: int, name: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return os.getxattr(fd, name)
    return None
