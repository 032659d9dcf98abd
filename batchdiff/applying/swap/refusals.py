"""The errors for files that are missing, unexpected, or perhaps in use."""

from __future__ import annotations

from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.guest_files import changed_parts, missing, original_is
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Goal, History, Step
from batchdiff.applying.swap.task import SwapTask, is_in_place
from batchdiff.errors import GuestError
from batchdiff.files.filenames import shell_word
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.linux.call_failures import AGAIN, how_to_remove
from batchdiff.plan.plan import PlannedImage

CHANGED_ASIDE = (
    "No verb deletes that original, not even `purge --used`: find out what it contains before you remove it"
    " yourself."
)

BRING_ONE_BACK = "If they were moved, add `--map OLD=NEW`; otherwise bring one of them back from a backup."


def lost(task: SwapTask, where: OutgoingAt) -> GuestError:
    """Return the error for an incoming image that is missing, replaced or unreadable."""
    names, incoming = task.outgoing.names, task.incoming.source.path
    if where is OutgoingAt.GONE:
        return GuestError(
            f"{names.own} is gone, and {incoming} is missing or cannot be read",
            why="both were removed or moved, or the latter is damaged",
            remedy="Bring one of them back. If the pool was moved, see docs/moving.md.",
        )
    if task.goal is Goal.PURGE and task.final is Step.RESTORED:  # a restore has rebuilt the incoming image
        original, back = names.own, rename_back(names.own, incoming)
    else:
        original, back = names.at(where), command("restore", task.guest, "--discard-changes")
    return GuestError(
        f"the image published as {incoming} is gone, and with it what its VM wrote",
        why="it has been removed, moved or replaced since",
        remedy=f"Bring it back. Its original{original_is(original, task.original)}. To go back to the original:"
        f" {back}.",
    )


def lost_meanwhile(task: SwapTask, where: OutgoingAt) -> GuestError:
    """Return the error for a published incoming image that is missing or has changed."""
    own = task.incoming.path
    path = task.incoming.changed_part() or own
    has_made_way = is_in_place(task) and where is OutgoingAt.NAMED  # the outgoing file has the name again
    restores = task.goal is Goal.RESTORE
    if fingerprint_at(path) is not None and not has_made_way:
        return GuestError(
            f"{path} has changed",
            why="it was written to or replaced while this command ran",
            # The next apply or purge compares whatever is there.
            remedy=f"Stop whatever is using it, {AGAIN}" if restores else "Run the same command again.",
        )
    return error_vanished(path) if restores or path != own else lost(task, where)


def open_unseen(path: str, unknown: str) -> GuestError:
    """Return the error for a file that a program could have open unnoticed."""
    return GuestError(
        f"{path} was not deleted",
        why=f"{unknown}, so a VM could have it open without being noticed",
        remedy="If you are sure that no VM has it open, add `--unseen`.",
    )


def error_vanished(path: str) -> GuestError:
    """Return the error for an image that has vanished."""
    why = "it was removed or moved while this command ran"
    return GuestError(f"{path} is gone", why=why, remedy=f"Bring it back, {AGAIN}")


def rename_back(original: str, disk: str) -> str:
    """Return the command, in backquotes, that makes an older original the disk again: no verb does that."""
    return f"`mv -n {shell_word(original)} {shell_word(disk)}`"


def another_file(task: SwapTask, quarantined: str, history: History) -> GuestError:
    """Return the error for an outgoing file whose own name is taken by another file."""
    if task.goal is not Goal.APPLY:
        return GuestError(
            f"another file is at {task.outgoing.names.own}",
            why=f"the overlay that was there is now {quarantined}",
            remedy=f"Compare the two and move away the one that you do not need, {AGAIN}",
        )
    remedy = f"Plan again for the file that is there now; or, if no VM uses that file, move it away, {AGAIN}"
    state = history.states.get(task.guest)
    if state is not None and state.step is Step.RESTORED:
        purge = command("purge", task.guest, "--used")
        remedy = f"Plan again for the file that is there now. To delete the original in quarantine: {purge}."
    return GuestError(
        f"another file is at {task.outgoing.names.own}",
        why=f"the original that was planned is in quarantine as {quarantined}",
        remedy=remedy,
    )


def rebuilt_only(guest: str, overlay: str, rebuilt: str) -> GuestError:
    """Return the error for an overlay that is missing after a rebuild."""
    return GuestError(
        f"{guest} was not restored",
        why=f"its overlay {overlay} {missing(overlay)}; an interrupted restore had rebuilt {rebuilt} from it",
        remedy="If its VM has run on the overlay since, bring the overlay back; if not, add `--discard-changes`"
        f" to keep {rebuilt}.",
    )


def quarantined_by_another(path: str) -> GuestError:
    """Return the error for an original that another plan has put into quarantine."""
    return GuestError(
        f"{path} was left alone",
        why="it is an original that another plan has put into quarantine",
        remedy="Run `batchdiff restore` or `batchdiff purge` with that plan; `batchdiff status` shows the state of"
        " its guests.",
    )


def exists_already(task: SwapTask, left: str | None) -> GuestError:
    """Return the error for an incoming file whose name is taken. ``left``: an overlay that restore left behind."""
    if task.goal is Goal.APPLY and left == task.incoming.source.path:
        return GuestError(
            f"{left} already exists",
            why="a restore could not read this overlay and left it behind; it is needed only to recover what the"
            " VM wrote",
            remedy=f"To continue, {how_to_remove(left)}, {AGAIN}",
        )
    if task.goal is Goal.APPLY:
        remedy = "Move it away, or plan again with another `overlay.path`."
    else:
        remedy = f"Find out what it is and move it away, {AGAIN}"
    return GuestError(f"{task.incoming.source.path} already exists", remedy=remedy)


def data_file_exists(path: str) -> GuestError:
    """Return the error for a new data file whose name is taken."""
    return GuestError(
        f"{path} already exists",
        why="the overlay would keep its data in a new file of that name",
        remedy="Move it away, or plan again with another `overlay.data_file`.",
    )


def original_missing(guest: str, remedy: str = "") -> GuestError:
    """Return the error for a missing original. ``remedy``: empty if the overlay can be read."""
    return GuestError(
        f"{guest} cannot go back to its original",
        why="the original was deleted or moved",
        remedy=remedy or "Run the same command without `--discard-changes` to rebuild an image from the overlay.",
    )


def both_missing(guest: str, original: str, overlay: str) -> GuestError:
    """Return the error for a missing original and overlay."""
    return GuestError(
        f"{guest} cannot be restored",
        why=f"both its original {original} and its overlay {overlay} are gone",
        remedy=BRING_ONE_BACK,
    )


def overlay_missing(guest: str, overlay: str, original: str | None, planned: PlannedImage) -> GuestError:
    """Return the error for a missing overlay. ``original``: None if it is missing, too."""
    whole = "" if original is None else f" The original{original_is(original, planned)}."
    discard = command("restore", guest, "--discard-changes")
    back = "" if original is None else f" To go back to it and give up what the VM wrote: {discard}."
    return GuestError(
        f"{guest} was not restored",
        why=f"its overlay {overlay} {missing(overlay)}, and with it everything that its VM wrote",
        remedy=f"Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`.{whole}{back}",
    )


def not_the_overlay(path: str) -> GuestError:
    """Return the error for a file that is not known to be the overlay."""
    return GuestError(
        f"{path} was not deleted",
        why="it is not the file that apply published, and it names no backing file",
        remedy="Find out what it is, and move it away if no VM uses it; then run the same command again.",
    )


def not_the_original(guest: str, path: str, overlay: str, planned: PlannedImage) -> GuestError:
    """Return the error for a supposed original that must not replace the overlay."""
    rebuild = command("restore", guest)
    if parts := changed_parts(planned):
        return GuestError(
            f"{guest} was not restored",
            why=f"its original {path} has changed since it was planned: {parts}",
            remedy=f"Bring the planned files back, {AGAIN} To keep the overlay's content instead, move the"
            f" original away and run {rebuild}.",
        )
    return GuestError(
        f"{guest} was not restored",
        why=f"{path} is not its original, or was written to after the conversion",
        remedy=f"Compare it with the overlay {overlay}. To keep the overlay's content, move {path} away and run"
        f" {rebuild}. To go back to {path}, move the overlay away and run"
        f" {command('restore', guest, '--discard-changes')}.",
    )


def two_disks(guest: str, overlay: str, planned: PlannedImage) -> GuestError:
    """Return the error for an image at the original's path that differs from the overlay."""
    original = planned.source.path
    keep = f"move {original} away, {AGAIN}"
    if not planned.fingerprints[0].vouches_for_content:  # a block device cannot be moved away
        keep = "leave the guest as it is."
    return GuestError(
        f"{guest} was not restored",
        why=f"{original} is still there and differs from the overlay {overlay}, so only you know which of the two"
        " to keep",
        remedy=f"To check the overlay first: {command('verify', guest)}. To go back to {original} and delete the"
        " overlay:"
        f" {command('restore', guest, '--discard-changes')}. To keep the overlay's content, {keep}",
    )
