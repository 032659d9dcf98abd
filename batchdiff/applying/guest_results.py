"""Make the outcomes of guests for reports."""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.conversions import fate_of_missing
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import changes_aside, find_original, overlay_was_written
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.guests.whole_originals import original_too
from batchdiff.applying.journal.records import Fate, GuestState, History
from batchdiff.applying.pipeline import SwapResult, error_to_report
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.applying.swap.refusals import CHANGED_ASIDE
from batchdiff.applying.swap.restore_task import RestoreTask
from batchdiff.applying.swap.swap import Swap
from batchdiff.choices import Verdict
from batchdiff.errors import (
    BatchdiffError,
    DifferenceError,
    GuestError,
    ImageError,
    IncomparableError,
    VerificationError,
    is_inconclusive,
)
from batchdiff.image.files import open_image_file
from batchdiff.image.storage.allocation import allocated_bytes
from batchdiff.plan.plan import GuestToConvert, UntouchedGuest


def skipped_outcome(guest: UntouchedGuest) -> GuestOutcome:
    """Return the outcome of a guest that the plan skips or refuses."""
    skipped = guest.verdict is Verdict.SKIP
    status = Status.SKIPPED if skipped else Status.REFUSED
    return GuestOutcome(guest.name, status, guest.reason, exit_code=0 if skipped else 1)


def failure_outcome(result: SwapResult) -> GuestOutcome:
    """Return the outcome of a guest that failed."""
    error = result.error
    if error is None:
        raise AssertionError(f"{result.guest} did not fail")
    return GuestOutcome(result.guest, Status.FAILED, str(error), exit_code=error.exit_code)


def apply_outcome(guest: GuestToConvert, result: SwapResult, history: History) -> GuestOutcome:
    """Return the outcome of apply for a guest."""
    if result.error is not None or result.swap is None:
        return _not_continued(guest, result, history)
    swap = result.swap
    done = GuestOutcome(
        name=guest.name,
        status=_status(swap),
        original=swap.original,
        remarks=tuple(swap.remarks),
        gained_bytes=_gained(swap),
    )
    try:
        return _measured(done, guest)
    except (BatchdiffError, OSError) as error:
        reported = error_to_report(guest.name, error)
        return replace(done, status=Status.FAILED, reason=str(reported), exit_code=reported.exit_code)


def _not_continued(guest: GuestToConvert, result: SwapResult, history: History) -> GuestOutcome:
    outcome, state = failure_outcome(result), history.under_way(guest.name)
    if state is None or not state.published:
        return outcome
    outcome = replace(outcome, original=_original_now(guest, state))
    try:
        return _measured(outcome, guest)
    except (BatchdiffError, OSError):  # the sizes stay unknown
        return outcome


def _original_now(guest: GuestToConvert, state: GuestState) -> Original:
    try:
        original = find_original(guest, state)
    except (GuestError, ImageError) as error:
        return Original(Fate.UNKNOWN, doubt=error.why)
    if original is None:
        return Original(fate_of_missing(state))
    if original.path == guest.source.path:
        return Original(Fate.KEPT)
    return Original(Fate.QUARANTINED, original.path)


def _measured(outcome: GuestOutcome, guest: GuestToConvert) -> GuestOutcome:
    # The data file may be gone: the VM's owner may have copied it and the overlay into a single file.
    data_file = guest.options.data_file
    paths = [guest.overlay_path, *([data_file] if data_file and os.path.exists(data_file) else [])]
    taken = [_taken(path) for path in paths]
    length, on_disk = sum(each for each, _ in taken), sum(each for _, each in taken)
    return replace(
        outcome,
        predicted_overlay_bytes=guest.diff.savings.overlay_bytes,
        actual_overlay_bytes=length,
        predicted_overlay_disk_bytes=guest.diff.savings.overlay_disk_bytes,
        actual_overlay_disk_bytes=on_disk,
    )


def _taken(path: str) -> tuple[int, int]:
    fd = open_image_file(path)
    try:
        return os.fstat(fd).st_size, allocated_bytes(fd, path)
    finally:
        os.close(fd)


def _gained(swap: Swap) -> int | None:
    known = [each for each in swap.changes if each is not None]
    return sum(known) if known and len(known) == len(swap.changes) else None


def _status(swap: Swap) -> Status:
    if Action.PUBLISH in swap.done:
        return Status.CONVERTED
    # An interrupted apply may have left only the original's other files for this run to delete.
    is_retired = swap.changes or swap.done & {Action.QUARANTINE, Action.UNLINK}
    return Status.RETIRED if is_retired else Status.UNCHANGED


def undo_failure(guest: GuestToConvert, result: SwapResult, state: GuestState | None) -> GuestOutcome:
    """Return the outcome of a failed restore or purge, with the original's fate unless ``state`` is None."""
    outcome = failure_outcome(result)
    return outcome if state is None else replace(outcome, original=_original_now(guest, state))


def undo_outcome(guest: GuestToConvert, result: SwapResult, status: Status, history: History) -> GuestOutcome:
    """Return the outcome of restore or purge; ``status``: for a guest that did not fail."""
    if result.error is not None or result.swap is None:
        return undo_failure(guest, result, history.under_way(guest.name))
    done = result.swap
    original = done.original
    if status is Status.RESTORED:
        rebuilt_before = isinstance(done.task, RestoreTask) and done.task.is_rebuilt
        original = Original(Fate.REBUILT if rebuilt_before or Action.WRITE in done.done else Fate.BACK)
    remarks = tuple(done.remarks)
    return GuestOutcome(result.guest, status, original=original, remarks=remarks, gained_bytes=_gained(done))


def kept_outcome(guest: GuestToConvert, error: DifferenceError, state: GuestState) -> GuestOutcome:
    """Return the outcome of a guest whose original was not found to be identical to the VM's disk."""
    used = overlay_was_written(guest, state)
    what_next = f"To delete the original anyway: {command('purge', guest.name, '--used')}."
    if changes := changes_aside(guest):
        aside = original_names(guest.source.path).quarantine
        both = ", and its overlay has changed since the conversion" if used else ""
        changed = f"the original in quarantine, {aside}, has changed since it was planned: {changes}{both}"
        reason, what_next = f"{changed} ({error.what})", CHANGED_ASIDE
    elif isinstance(error, IncomparableError):
        reason = error.reason  # a file was in use, so whether the two differ is unknown
    elif not state.published:
        reason = f"restore rebuilt its image, including what its VM had written ({error.what})"
    elif used or state.overlay is None:
        surely = "" if used else "probably "  # an overlay whose publication was not recorded has no fingerprint
        reason = f"its VM has {surely}run on the overlay since the conversion ({error.what})"
    else:
        reason = (
            f"original and overlay differ, though neither has been written to since the conversion ({error.what})"
        )
        what_next = f"Before you decide which of the two to keep, run {command('verify', guest.name)}."
    return GuestOutcome(guest.name, Status.KEPT, f"{reason}. {what_next}", original=Original(Fate.QUARANTINED))


def with_way_back(result: SwapResult, guest: GuestToConvert, history: History) -> SwapResult:
    """Return the result; if its error may be about a damaged overlay, name any original to go back to."""
    error = result.error
    is_damage = isinstance(error, ImageError | VerificationError) and not isinstance(error, DifferenceError)
    if error is None or not is_damage or is_inconclusive(error):
        return result
    return replace(result, error=original_too(error, guest, history))
