"""What happens to an original: the only module that renames or unlinks one.

An original goes only while its descriptor, opened and fingerprinted before the overlay was written, is held::

    quarantine   compare path and descriptor -> rename to NAME.batchdiff-original, never replacing
    delete       the same, aside under a name of ours -> compare the inode once more -> unlink
"""

from __future__ import annotations

import dataclasses
import os
import stat

from batchdiff.applying.renaming import rename_without_replacing
from batchdiff.errors import GuestError
from batchdiff.image import files
from batchdiff.image.fingerprint import Fingerprint, fingerprint_at
from batchdiff.model.manifest import Retire
from batchdiff.model.plan_file import sync_folder

QUARANTINE_SUFFIX = ".batchdiff-original"
_DELETING_SUFFIX = ".batchdiff-deleting"


def objection(fd: int, path: str, retire: Retire) -> str:
    """Why an original may not be retired in that way; empty where it may."""
    info = os.fstat(fd)
    if retire is Retire.KEEP:
        return ""
    if stat.S_ISBLK(info.st_mode):
        return f"{path} is a block device; only `--retire keep` is possible, remove the volume yourself"
    if retire is Retire.DELETE and info.st_nlink > 1:
        return f"{path} has {info.st_nlink} hard links; deleting one name would free nothing"
    if retire is Retire.QUARANTINE and os.path.lexists(path + QUARANTINE_SUFFIX):
        return f"{path + QUARANTINE_SUFFIX} exists already"
    return ""


def retire_original(fd: int, path: str, planned: Fingerprint, retire: Retire) -> str:
    """Retires an original whose overlay is verified and published; says in words what became of it.

    ``fd`` is its descriptor, held since it was checked against ``planned``.

    :raises GuestError: it is not the planned file any more; nothing was done to it.
    :raises OSError: it cannot be renamed or unlinked.
    """
    if retire is Retire.KEEP:
        return "kept"
    _require_same(fd, path, planned)
    if retire is Retire.QUARANTINE:
        aside = path + QUARANTINE_SUFFIX
        rename_without_replacing(path, aside)
        return f"quarantined as {aside}"
    aside = path + _DELETING_SUFFIX
    rename_without_replacing(path, aside)
    try:
        _require_open_file(fd, aside, path)
        os.unlink(aside)
    except BaseException:
        # Also for Ctrl-C: an original either has its name, or is gone.
        if os.path.lexists(aside) and not os.path.lexists(path):
            rename_without_replacing(aside, path)
        raise
    sync_folder(os.path.dirname(path))
    return "deleted"


def put_back(path: str, planned: Fingerprint) -> bool:
    """Gives an original its name back that an apply was about to delete when it died; whether there was one.

    Its ctime is not compared: the rename has changed it. Nothing is deleted here: the overlay may have
    changed since it was verified.

    :raises OSError: it cannot be renamed.
    """
    aside = path + _DELETING_SUFFIX
    if os.path.lexists(path) or not _is_planned(aside, planned):
        return False
    rename_without_replacing(aside, path)
    return True


def found_quarantined(path: str, planned: Fingerprint) -> str:
    """Says that an original is in quarantine, where it is; empty where it is not."""
    aside = path + QUARANTINE_SUFFIX
    return f"quarantined as {aside}" if not os.path.lexists(path) and _is_planned(aside, planned) else ""


def _is_planned(path: str, planned: Fingerprint) -> bool:
    now = fingerprint_at(path)
    return now is not None and dataclasses.replace(now, ctime_ns=planned.ctime_ns) == planned


def _require_same(fd: int, path: str, planned: Fingerprint) -> None:
    changes = planned.changes(files.identify(fd))
    if changes or not _is_open_file(fd, path):
        raise GuestError(
            f"{path} was not retired",
            why=changes or "another file stands in its place",
            remedy="Its overlay is complete; look at what changed, then plan again.",
        )


def _require_open_file(fd: int, aside: str, path: str) -> None:
    if not _is_open_file(fd, aside):
        raise GuestError(f"{path} was replaced at the last moment", why="it is not the file that was verified")


def _is_open_file(fd: int, path: str) -> bool:
    info = os.fstat(fd)
    try:
        now = os.lstat(path)
    except FileNotFoundError:
        return False
    return (info.st_dev, info.st_ino) == (now.st_dev, now.st_ino)
