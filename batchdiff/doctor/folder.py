"""Facts about a folder, some of them from trials with temporary files in it.

Source: ioctl_ficlone(2); fallocate(2); fcntl(2), "Leases"; Linux ``Documentation/filesystems/fiemap.rst``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile

from batchdiff.applying.checks.space import free_bytes
from batchdiff.doctor.fact import Ability, Fact
from batchdiff.errors import GuestError, ImageError
from batchdiff.image.in_use.lease import are_disabled, why_unknown
from batchdiff.linux.call_failures import explain
from batchdiff.linux.fiemap import physical_extents
from batchdiff.linux.mounts import Mount, filesystem_of, mount_under
from batchdiff.linux.permissions import Deed
from batchdiff.units import KIB, MIB, format_size

_FICLONE = 0x40049409
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_TRIAL = 64 * KIB
_LITTLE = 64 * MIB
"""With less free space, hardly any overlay fits."""

_OF_ONE_HOST = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "bcachefs"})
"""Filesystems that only one host at a time may mount."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def folder_facts(folder: str) -> list[Fact]:
    """Return facts about a folder; only one, with the reason, if it cannot be opened."""
    path = os.path.abspath(folder)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return [_unusable(path, error)]
    try:
        mount = mount_under(fd)
        kind = filesystem_of(fd)
    finally:
        os.close(fd)
    facts = [Fact(path, "filesystem", _described(kind, mount)), _hosts(path, kind), _space(path)]
    return [*facts, *_trials(path)]


def _unusable(path: str, error: OSError | ValueError) -> Fact:
    if isinstance(error, OSError):
        fault = explain(error, Deed.READ, path)
        return Fact(path, "folder", fault.why, Ability.MISSING, fault.remedy)
    return Fact(path, "folder", str(error), Ability.MISSING, "Correct the path.")


def _described(kind: str, mount: Mount | None) -> str:
    if mount is None:
        return kind or "unknown"
    return f"{kind}, {mount.source} mounted at {mount.point}"


def _hosts(path: str, kind: str) -> Fact:
    if kind in _OF_ONE_HOST:
        return Fact(path, "other hosts", "can reach it only through this one, for example over NFS")
    effect = "VMs on other hosts are not detected: before `apply`, shut down the guests on all hosts."
    return Fact(path, "other hosts", "may use it too", Ability.LIMITED, effect)


def _space(path: str) -> Fact:
    try:
        free = free_bytes(path)
    except GuestError as error:
        return Fact(path, "free space", error.why, Ability.LIMITED, error.remedy)
    if free >= _LITTLE:
        return Fact(path, "free space", format_size(free))
    effect = "An overlay is written before its original is deleted, so both must fit. Free some space."
    return Fact(path, "free space", format_size(free), Ability.LIMITED, effect)


def _trials(path: str) -> list[Fact]:
    try:
        # If the filesystem lacks O_TMPFILE, each file has a name for a moment.
        with tempfile.TemporaryFile(dir=path) as one, tempfile.TemporaryFile(dir=path) as other:
            one.write(os.urandom(_TRIAL))
            one.flush()
            return [
                Fact(path, "writing", "possible"),
                _reflinks(path, one.fileno(), other.fileno()),
                _extent_maps(path, one.fileno()),
                _holes(path, one.fileno()),
                _leases(path, one.fileno()),
            ]
    except OSError as error:
        fault = explain(error, Deed.CREATE, os.path.join(path, "overlay.qcow2"))
        effect = f"`plan` can read images here, but `apply` cannot write. {fault.remedy}".strip()
        return [Fact(path, "writing", fault.why, Ability.MISSING, effect)]


def _reflinks(path: str, source: int, target: int) -> Fact:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        effect = "Overlays get copies of the guests' changed data; a restore needs space for a full image."
        return Fact(path, "reflinks", "not supported", Ability.LIMITED, effect)
    return Fact(path, "reflinks", "supported: an overlay shares the blocks of its original")


def _extent_maps(path: str, fd: int) -> Fact:
    try:
        found = physical_extents(fd, path) is not None
    except ImageError as error:
        return Fact(path, "extent maps (FIEMAP)", error.why, Ability.LIMITED, error.remedy)
    if found:
        return Fact(path, "extent maps (FIEMAP)", "supported: shared blocks are never counted as savings")
    effect = "Blocks that files share cannot be detected: if there are any, less space is freed than predicted."
    return Fact(path, "extent maps (FIEMAP)", "not supported", Ability.LIMITED, effect)


def _holes(path: str, fd: int) -> Fact:
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, _TRIAL) == 0:
        return Fact(path, "hole punching", "supported")
    number = ctypes.get_errno()
    why = "not supported" if number in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL} else os.strerror(number)
    effect = "When a VM trims its disk, no space is freed, whether in a full image or in an overlay."
    return Fact(path, "hole punching", why, Ability.LIMITED, effect)


def _leases(path: str, fd: int) -> Fact:
    if not why_unknown(fd):
        return Fact(path, "leases", "reliable: a VM that has an image open is detected")
    effect = (
        "A VM without image locks is not detected: make sure that the guests are shut down. Originals are deleted"
        " only with `--unseen`."
    )
    if are_disabled():
        value, effect = "disabled on this machine", f"{effect} `sysctl fs.leases-enable=1` enables leases."
    else:
        value = "unreliable: they do not show whether a file is open"
    return Fact(path, "leases", value, Ability.LIMITED, effect)
