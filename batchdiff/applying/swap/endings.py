"""Decide how the work on a guest ends: what became of its original, and the errors if a file is missing."""

from __future__ import annotations

from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import Names
from batchdiff.applying.guests.guest_files import missing
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Fate, Goal, Step
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.task import Task
from batchdiff.errors import GuestError, ImageError
from batchdiff.files.filenames import shell_word
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN, how_to_remove


def original_at(names: Names, where: OutgoingAt) -> Original:
    """Return what became of an original that this process has not deleted."""
    match where:
        case OutgoingAt.GONE:
            return Original(Fate.GONE)
        case OutgoingAt.NAMED:
            return Original(Fate.KEPT)
        case _:
            return Original(Fate.QUARANTINED, names.at(where))


def opens(overlay: ImageSource) -> bool:
    """Return whether an overlay whose original was removed can at least be opened."""
    try:
        open_image(overlay).close()
    except ImageError:
        return False
    return True


def lost(task: Task, where: OutgoingAt) -> GuestError:
    """Return the error for a missing incoming image: nothing can be done without it."""
    names, incoming = task.outgoing.names, task.incoming.source.path
    if where is OutgoingAt.GONE:
        return GuestError(
            f"{names.own} is gone, and {incoming} is missing or cannot be read",
            why="both were removed or moved",
            remedy="Bring one of them back. If the pool was moved, see docs/moving.md.",
        )
    if task.goal is Goal.PURGE and task.final is Step.RESTORED:  # a restore has rebuilt the incoming image
        original, back = names.own, rename_back(names.own, incoming)
    else:
        original, back = names.at(where), command("restore", task.guest, "--discard-changes")
    return GuestError(
        f"{incoming} is gone, with what its VM wrote",
        why="it was published, and has been removed or moved since",
        remedy=f"Bring it back. Its original, as it was before the conversion, is {original}. To go back to that:"
        f" {back}.",
    )


def rename_back(original: str, disk: str) -> str:
    """Return the command, in backquotes, by which an older original becomes the disk again: no verb does it."""
    return f"`mv -n {shell_word(original)} {shell_word(disk)}`"


def another_file(task: Task, quarantined: str) -> GuestError:
    """Return the error for a file that cannot get its name back, because another file has taken it."""
    if task.goal is not Goal.APPLY:
        return GuestError(
            f"another file is at {task.outgoing.names.own}",
            why=f"the file that was verified is {quarantined}",
            remedy=f"Compare the two and move away the one that you do not need, {AGAIN}",
        )
    return GuestError(
        f"another file is at {task.outgoing.names.own}",
        why=f"the original that was planned is in quarantine as {quarantined}",
        remedy="Plan again for what is there now. To delete the original in quarantine:"
        f" {command('purge', task.guest, '--used')}.",
    )


def rebuilt_only(guest: str, overlay: str, rebuilt: str) -> GuestError:
    """Return the error for a missing overlay whose image was rebuilt: its VM may have run once more since."""
    return GuestError(
        f"{guest} was not restored",
        why=f"its overlay {overlay} {missing(overlay)}; a restore that did not finish had rebuilt {rebuilt}"
        " from it",
        remedy="If its VM has run on the overlay since, bring the overlay back; if not, add `--discard-changes`,"
        f" and {rebuilt} stays.",
    )


def quarantined_by_another(path: str) -> GuestError:
    """Return the error for an original in quarantine that this plan's journal has not moved."""
    return GuestError(
        f"{path} was left alone",
        why="it is an original that another plan has put into quarantine",
        remedy="`batchdiff status` of that plan shows where it stands; undo or end the quarantine with that plan.",
    )


def exists_already(task: Task, left: str | None) -> GuestError:
    """Return the error for a new file whose name is taken. ``left``: the overlay that a restore left."""
    if task.goal is Goal.APPLY and left == task.incoming.source.path:
        return GuestError(
            f"{left} exists already",
            why="a restore left that overlay because it could not read it, and the original does not need it",
            remedy=f"{how_to_remove(left)}, {AGAIN}",
        )
    if task.goal is Goal.APPLY:
        remedy = "Move it away, or plan again with another `overlay.path`."
    else:
        remedy = f"Find out what it is and move it away, {AGAIN}"
    return GuestError(f"{task.incoming.source.path} exists already", remedy=remedy)
