"""Retire a file, or give a new file its final name; no other module renames or unlinks an original.

A file is renamed or deleted only while it is open, and only if its path still leads to the open file::

    move      compare path and descriptor -> rename, replacing nothing -> compare again; undo if they differ
    delete    compare path and descriptor -> refuse a file of the template's chain -> unlink
"""

from __future__ import annotations

import os
import stat

from batchdiff.applying.guests.file_names import FileNames
from batchdiff.applying.journal.records import Goal
from batchdiff.choices import Retire
from batchdiff.errors import BatchdiffError, GuestError
from batchdiff.files.atomic_write import sync_folder
from batchdiff.files.filenames import longest_name, shell_word
from batchdiff.image.image import Image
from batchdiff.image.storage.allocation import disk_use
from batchdiff.image.storage.exactness import Exactness
from batchdiff.linux.call_failures import AGAIN, UNDO_SECOND_NAME, Fault
from batchdiff.linux.rename import rename_without_replacing
from batchdiff.plan.earlier_plans import EarlierPlans

_SHORTER = (
    "Give it a shorter name, then run the same command with `--map OLD=NEW`, where OLD and NEW are its old and new"
    " paths."
)
_TOO_LONG = {
    Goal.APPLY: "Use `--retire keep`, and remove the original yourself; or give it a shorter name, and plan"
    " again.",
    Goal.RESTORE: _SHORTER,
    Goal.PURGE: _SHORTER,
}


def objection(
    fd: int, names: FileNames, retire: Retire, goal: Goal = Goal.APPLY, *, plans: EarlierPlans | None = None
) -> Fault | None:
    """Return an objection to retiring a file as requested, if any.

    ``plans``: searched for the plan whose original already has the quarantine name.
    """
    info, path = os.fstat(fd), names.own
    if retire is Retire.KEEP:
        return None
    if stat.S_ISBLK(info.st_mode):
        return Fault(
            f"{path} is a block device, which can be neither renamed nor deleted",
            "Use `--retire keep`, and remove the volume yourself.",
        )
    if retire is Retire.DELETE and info.st_nlink > 1:
        return Fault(
            f"{path} has {info.st_nlink} hard links, and deleting one name would free nothing",
            f"To list them, run `find FOLDER -xdev -samefile {shell_word(path)}`, where FOLDER is the mount point"
            f" of the filesystem. Remove all of them except {path}, {AGAIN}",
        )
    aside = names.quarantine if retire is Retire.QUARANTINE else names.deleting
    if len(os.fsencode(os.path.basename(aside))) > longest_name(os.path.dirname(path)):
        return Fault(
            f"{path} cannot be renamed: the name {os.path.basename(aside)!r} would be too long", _TOO_LONG[goal]
        )
    # `deleting` is not checked: the file with that name may be the original that a restore is about to bring back.
    if retire is Retire.QUARANTINE and os.path.lexists(aside):
        way_out = (plans or EarlierPlans()).way_out_of_quarantine(aside)
        return Fault(
            f"{aside}, the original of an earlier conversion, already exists",
            f"To continue, {way_out}, or move it away, {AGAIN}",
        )
    return None


def move(fd: int, source: str, target: str) -> None:
    """Rename an open file within its filesystem, durably and without replacing another one.

    :raises GuestError: ``source`` no longer leads to that file; nothing stays renamed.
    :raises OSError: the file cannot be renamed durably.
    """
    _require_open_file(fd, source)
    rename_without_replacing(source, target)
    if not is_open_file(fd, target):
        # Another file was put at ``source`` just before the rename: give that file its name back.
        rename_without_replacing(target, source)
        raise _replaced(source)


def delete(fd: int, path: str, template: Image) -> int | None:
    """Unlink an open file, durably; return the bytes that its deletion frees, or a lower bound; None if unknown.

    :raises GuestError: ``path`` no longer leads to that file, or the file is in the template's chain.
    :raises OSError: the file cannot be unlinked.
    """
    _require_open_file(fd, path)
    info = os.fstat(fd)
    for layer in template.layers:
        kept = os.fstat(layer.fd)
        if (kept.st_dev, kept.st_ino) == (info.st_dev, info.st_ino):
            raise GuestError(
                f"{path} was not deleted",
                why=f"it is {layer.path}, on which all overlays depend",
                remedy=UNDO_SECOND_NAME,
            )
    freed = _own_bytes(fd, path)
    os.unlink(path)
    sync_folder(os.path.dirname(path))
    return freed


def change_by_writing(fd: int, path: str) -> int | None:
    """Return the bytes, 0 or negative, by which a new file changes the free space; None if unknown."""
    taken = _own_bytes(fd, path)
    return None if taken is None else -taken


def _own_bytes(fd: int, path: str) -> int | None:
    try:
        use = disk_use(fd, path)
    except (BatchdiffError, OSError):  # the number is for a report only
        return None
    return use.reclaimable if use.exactness in {Exactness.EXACT, Exactness.AT_LEAST} else None


def _require_open_file(fd: int, path: str) -> None:
    if not is_open_file(fd, path):
        raise _replaced(path)


def _replaced(path: str) -> GuestError:
    return GuestError(
        f"{path} was not touched",
        why="the file that was opened is no longer there",
        remedy=f"Find out what removed or replaced it, bring it back, {AGAIN}",
    )


def is_open_file(fd: int, path: str) -> bool:
    """Return whether a path, without following a link, leads to an open file."""
    info = os.fstat(fd)
    try:
        now = os.lstat(path)
    except FileNotFoundError:
        return False
    return (info.st_dev, info.st_ino) == (now.st_dev, now.st_ino)
