"""Explanations of failed system calls: the cause and a remedy.

::

    OSError(EPERM, vm.img -> vm.img.batchdiff-original)
        | the attempted operation, and the files as they are now
        v
    "vm.img is immutable (attribute i, ...), ..."    "If nothing depends on that, run `chattr -i vm.img`, ..."

No remedy names a verb of batchdiff: many verbs can fail in these ways.

Source: errno(3), rename(2), unlink(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from batchdiff.errors import advice_on_limit
from batchdiff.files.filenames import shell_word
from batchdiff.linux.inode_locks import lock_on, project_of
from batchdiff.linux.mounts import is_mount_point, is_mounted_read_only, mount_of
from batchdiff.linux.permissions import (
    IN_FOLDER,
    Deed,
    confinement,
    lacking_access,
    lacking_capability,
    lacking_ownership,
)

AGAIN = "then run the same command again."
ALREADY_EXISTS = "it already exists, and files are never replaced"
UNDO_SECOND_NAME = "Find out how the file got its second name (bind mount, hard or symbolic link), and undo that."


def how_to_remove(path: str) -> str:
    """Return, as a clause, the advice to remove or rename a file."""
    return f"remove it (`rm {shell_word(path)}`) or rename it"


class Fault(NamedTuple):
    """A cause, as a clause, and its remedy, in whole sentences."""

    why: str
    remedy: str


class _Case(NamedTuple):
    error: OSError
    deed: Deed
    path: str
    target: str

    @property
    def folder(self) -> str:
        return os.path.dirname(os.path.abspath(self.path))

    @property
    def text(self) -> str:
        text = self.error.strerror or str(self.error)
        return f"{text} ({self.path})" if self.path else text


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Add the path to a system error that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def explain(error: OSError, deed: Deed | None = None, path: str = "") -> Fault:
    """Return why a call failed, and a remedy. ``deed`` and ``path`` replace those that the error shows."""
    path = path or _text(error.filename)
    case = _Case(error, deed or _deed(error, path), path, _text(error.filename2))
    return _CAUSES.get(error.errno or 0, _other)(case)


def reason(error: OSError, deed: Deed | None = None, path: str = "") -> str:
    """Return why a call failed, without a remedy."""
    return explain(error, deed, path).why


def obstacle(deed: Deed, path: str) -> Fault | None:
    """Return why renaming a file within its folder, or deleting it, would fail; None if no reason is found."""
    if is_mount_point(path):
        return explain(OSError(errno.EBUSY, os.strerror(errno.EBUSY), path), deed)
    case = _Case(OSError(errno.EPERM, os.strerror(errno.EPERM)), deed, path, "")
    if lacking_ownership(deed, path):
        return _not_permitted(case)
    return _locked(case) or (_other_project(case) if deed is Deed.RENAME else None)


def _deed(error: OSError, path: str) -> Deed:
    # Only a rename, or a link, has two names. Of the attempts with one name, only creating needs no existing file.
    if error.filename2 is not None:
        return Deed.RENAME
    if error.errno in _OF_WRITING or not path:
        return Deed.WRITE
    if not os.path.lexists(path):
        return Deed.CREATE
    return Deed.READ if os.path.isdir(path) else Deed.DELETE


def _text(name: object) -> str:
    if isinstance(name, bytes | str):
        return os.fsdecode(name)
    return ""


def _locked(case: _Case) -> Fault | None:
    places = [case.path] if case.path else []
    if case.deed in IN_FOLDER and case.path:
        places.append(case.folder)
    for place in places:
        lock = lock_on(place)
        if lock is not None and not (lock.letter == "a" and place == case.folder and case.deed is Deed.CREATE):
            what = "the folder " if place == case.folder else ""
            return Fault(
                f"{what}{place} is {lock.word} (attribute {lock.letter}, see lsattr), which stops even root",
                f"If nothing depends on that, run `chattr -{lock.letter} {shell_word(place)}`, {AGAIN}",
            )
    return None


def _not_permitted(case: _Case) -> Fault:
    locked = _locked(case) or _without_capabilities(case)
    if locked is not None:
        return locked
    owner = lacking_ownership(case.deed, case.path) if case.path else ""
    return Fault(owner, "Run the same command as root.") if owner else _unexplained(case)


def _denied(case: _Case) -> Fault:
    limited = _without_capabilities(case)
    if limited is not None:
        return limited
    lacking = next(filter(None, (lacking_access(case.deed, at) for at in (case.path, case.target) if at)), "")
    if not lacking:
        return _unexplained(case)
    if os.geteuid() == 0:
        return Fault(lacking, f"If the file server maps root to nobody (root_squash), change that, {AGAIN}")
    remedy = f"Run the same command as a user with that permission, such as root; or grant the permission, {AGAIN}"
    return Fault(lacking, remedy)


def _without_capabilities(case: _Case) -> Fault | None:
    missing = lacking_capability()
    if not missing:
        return None
    return Fault(
        f"{case.text}: this process runs as root, but lacks {missing}, as is common in containers",
        f"Give this process, or its container, {missing}; or run batchdiff outside the container.",
    )


def _unexplained(case: _Case) -> Fault:
    label = confinement()
    confined = f" This process is confined as {label}." if label else ""
    allowed = ", though owners and modes allow it:" if case.path else ": the owner or mode of a file,"
    return Fault(
        f"{case.text}{allowed} a security module (AppArmor, SELinux) or the file server forbids it",
        f"See `dmesg` and the audit log for what was denied, and allow it, {AGAIN}{confined}",
    )


def _read_only(case: _Case) -> Fault:
    mount = mount_of(case.path) if case.path else None
    if mount is None:
        return Fault(f"the filesystem of {case.path or 'the file'} is read-only", f"Make it writable, {AGAIN}")
    if not is_mounted_read_only(case.path):
        part = f"the part of {mount.point} ({mount.filesystem}) that contains {case.path}"
        why = f"{part} is read-only, as a snapshot can be"
        return Fault(why, f"Make that part writable, {AGAIN}")
    whole = "remount,rw" if mount.read_only else "remount,bind,rw"
    return Fault(
        f"{mount.point} ({mount.filesystem}) is mounted read-only, and {case.path} is on it",
        f"If the kernel log (`dmesg`) shows no disk errors, run `mount -o {whole}"
        f" {shell_word(mount.point)}`, {AGAIN}",
    )


def _busy(case: _Case) -> Fault:
    if case.path and is_mount_point(case.path):
        return Fault(
            f"{case.path} is a mount point, so it cannot be renamed or deleted; a container tool, for example, may"
            " have bind-mounted the file itself",
            f"Mount its folder instead of the file, {AGAIN} Or run batchdiff outside the container.",
        )
    show = f"`fuser -v {shell_word(case.path)}` shows" if case.path else "Find out"
    return Fault(case.text, f"{show} what is using it. Stop that, {AGAIN}")


def _exists(case: _Case) -> Fault:
    taken = f"the name {case.target or case.path}" if case.path else "that name"
    return Fault(f"another file already has {taken}", f"Find out what it is and move it away, {AGAIN}")


def _other_project(case: _Case) -> Fault | None:
    file, folder = project_of(case.path), project_of(os.path.dirname(os.path.abspath(case.target or case.path)))
    if file is not None and folder is not None and folder.inherited and file.number != folder.number:
        return Fault(
            f"{case.path} belongs to quota project {file.number}, but its folder accepts only files of"
            f" project {folder.number}",
            f"Run `chattr -p {folder.number} {shell_word(case.path)}`, {AGAIN}",
        )
    return None


def _other_device(case: _Case) -> Fault:
    return _other_project(case) or Fault(
        f"{case.path or 'the file'} and {case.target or 'its new name'} are on different filesystems",
        f"Put both on one filesystem, {AGAIN}",
    )


def _full(case: _Case) -> Fault:
    if not case.path:
        return Fault(os.strerror(errno.ENOSPC), f"Make room, {AGAIN}")
    with contextlib.suppress(OSError):
        status = os.statvfs(case.folder)
        if status.f_files and not status.f_favail and status.f_bavail:
            return Fault(f"the filesystem of {case.folder} has no inodes left", f"Delete files there, {AGAIN}")
    return Fault(f"the filesystem of {case.folder} has no space left", f"Make room, {AGAIN}")


def _over_quota(case: _Case) -> Fault:
    where = f" on the filesystem of {case.folder}" if case.path else ""
    mount = mount_of(case.path) if case.path else None
    show = "`quota` or `repquota` shows whose quota it is (that of a user, group or project)"
    if mount is not None and mount.filesystem == "btrfs":
        show = f"`btrfs qgroup show -re {shell_word(case.folder)}` shows the limits of the subvolumes"
    return Fault(f"the disk quota{where} is used up", f"{show}. Free some space or raise the quota, {AGAIN}")


def _too_large(case: _Case) -> Fault:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        why = f"{case.text}: this process may not write files larger than {limit} bytes"
        return Fault(why, f"Run `ulimit -f unlimited`, {AGAIN}")
    return Fault(case.text, "The filesystem does not support files of that size. Use another filesystem.")


def _missing(case: _Case) -> Fault:
    why = f"{case.path or 'the file'}, or a folder above it, does not exist"
    return Fault(why, f"Correct the path, or put back what is missing, {AGAIN}")


def _another_kind(case: _Case, what: str) -> Fault:
    return Fault(f"{case.path or 'the file'} is {what}", f"Correct the path, or move away what is there, {AGAIN}")


def _fixed(remedy: str) -> Callable[[_Case], Fault]:
    return lambda case: Fault(case.text, remedy)


def _other(case: _Case) -> Fault:
    return Fault(case.text, f"Look for the cause in the kernel log (`dmesg`), {AGAIN}")


_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

_CAUSES: dict[int, Callable[[_Case], Fault]] = {
    errno.EPERM: _not_permitted,
    errno.EACCES: _denied,
    errno.EROFS: _read_only,
    errno.EBUSY: _busy,
    errno.EEXIST: _exists,
    errno.EXDEV: _other_device,
    errno.ENOSPC: _full,
    errno.EDQUOT: _over_quota,
    errno.EFBIG: _too_large,
    errno.ENOENT: _missing,
    errno.EIO: _fixed(f"The disk or its connection has a fault (see the kernel log, `dmesg`): fix it, {AGAIN}"),
    errno.ESTALE: _fixed(f"The file server no longer knows that file: mount the filesystem again, {AGAIN}"),
    errno.ENOTCONN: _fixed(f"The process behind this filesystem has ended: mount the filesystem again, {AGAIN}"),
    errno.ENAMETOOLONG: lambda _: Fault(
        os.strerror(errno.ENAMETOOLONG), "Give the file, or the folders above it, shorter names."
    ),
    errno.ETXTBSY: _fixed(f"The file is in use as a program or swap: end the program, or run `swapoff`, {AGAIN}"),
    errno.EMFILE: lambda case: Fault(case.text, advice_on_limit(case.error)),
    errno.ENFILE: lambda case: Fault(case.text, advice_on_limit(case.error)),
    errno.ENOMEM: lambda case: Fault(case.text, advice_on_limit(case.error)),
    errno.ENOTDIR: _fixed("There is a file where a folder should be. Correct the path."),
    errno.ELOOP: lambda case: _another_kind(case, "a symbolic link, or links among its folders lead in a circle"),
    errno.EISDIR: lambda case: _another_kind(case, "a folder"),
    errno.ESPIPE: lambda case: _another_kind(case, "not a regular file"),
}
