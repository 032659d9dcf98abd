"""Turn the end of a guest's way into its outcome for the report."""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.guest_files import find_original
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.guests.whole_originals import original_too
from batchdiff.applying.journal.records import Fate, Notes, Standing
from batchdiff.applying.pipeline import Arrival
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.errors import BatchdiffError, DifferenceError, GuestError, ImageError, VerificationError
from batchdiff.image.files import open_image_file
from batchdiff.image.storage.allocation import allocated_bytes
from batchdiff.plan.plan import GuestToConvert, UntouchedGuest, Verdict


def not_converted(guest: UntouchedGuest) -> GuestOutcome:
    """Return the outcome of a guest that the plan does not convert."""
    skipped = guest.verdict is Verdict.SKIP
    status = Status.SKIPPED if skipped else Status.REFUSED
    return GuestOutcome(guest.name, status, guest.reason, exit_code=0 if skipped else 1)


def failed(arrival: Arrival) -> GuestOutcome:
    """Return the outcome of a guest that failed."""
    error = arrival.error
    if error is None:
        raise AssertionError("it did not fail")
    return GuestOutcome(arrival.guest, Status.FAILED, str(error), exit_code=error.exit_code)


def converted(guest: GuestToConvert, arrival: Arrival, notes: Notes) -> GuestOutcome:
    """Return the outcome of a guest under apply; after a failure, with what an earlier run has done."""
    if arrival.error is not None or arrival.conversion is None:
        return _not_continued(guest, arrival, notes)
    conversion = arrival.conversion
    done = GuestOutcome(
        name=guest.name,
        status=_status(conversion.done),
        original=conversion.original,
        remarks=tuple(conversion.notes),
    )
    return _measured(done, guest)


def _not_continued(guest: GuestToConvert, arrival: Arrival, notes: Notes) -> GuestOutcome:
    """Return the outcome of a guest that failed; an earlier run may have published its overlay."""
    outcome, standing = failed(arrival), notes.under_way(guest.name)
    if standing is None or not standing.published:
        return outcome
    outcome = replace(outcome, original=_original_now(guest, standing))
    try:
        return _measured(outcome, guest)
    except (BatchdiffError, OSError):  # its overlay is missing, which the error reports
        return outcome


def _original_now(guest: GuestToConvert, standing: Standing) -> Original:
    """Return what has become of the original of a converted guest so far, by the files."""
    try:
        original = find_original(guest, standing)
    except GuestError as error:
        return Original(Fate.UNKNOWN, doubt=error.why)
    if original is None:
        return Original(Fate.GONE)
    if original.path == guest.source.path:
        return Original(Fate.KEPT)
    return Original(Fate.QUARANTINED, original.path)


def _measured(outcome: GuestOutcome, guest: GuestToConvert) -> GuestOutcome:
    """Return the same outcome with the predicted and actual sizes of the overlay."""
    length, on_disk = _taken(guest.overlay_path)
    return replace(
        outcome,
        predicted_overlay_bytes=guest.diff.savings.overlay_bytes,
        actual_overlay_bytes=length,
        predicted_overlay_disk_bytes=guest.diff.savings.overlay_disk_bytes,
        actual_overlay_disk_bytes=on_disk,
    )


def _taken(path: str) -> tuple[int, int]:
    """Return the length of a file, and its allocated size on disk, in bytes."""
    fd = open_image_file(path)
    try:
        return os.fstat(fd).st_size, allocated_bytes(fd, path)
    finally:
        os.close(fd)


def _status(done: frozenset[Action]) -> Status:
    if Action.PUBLISH in done:
        return Status.CONVERTED
    return Status.RETIRED if done & {Action.QUARANTINE, Action.UNLINK} else Status.UNCHANGED


def undone(guest: GuestToConvert, arrival: Arrival, status: Status, notes: Notes) -> GuestOutcome:
    """Return the outcome of a guest that was restored or purged, or that failed."""
    if arrival.error is not None or arrival.conversion is None:
        standing = notes.under_way(guest.name)
        outcome = failed(arrival)
        return outcome if standing is None else replace(outcome, original=_original_now(guest, standing))
    done = arrival.conversion
    original = done.original
    if status is Status.RESTORED:
        original = Original(Fate.REBUILT if Action.WRITE in done.done else Fate.BACK)
    return GuestOutcome(arrival.guest, status, original=original, remarks=tuple(done.notes))


def kept_for(guest: str, error: DifferenceError) -> GuestOutcome:
    """Return the outcome of a guest whose original stays in quarantine, because the two differ by now."""
    purge = command("purge", guest, "--used")
    reason = f"its VM has run on the overlay since ({error.what}). To delete the original too: {purge}"
    return GuestOutcome(guest, Status.KEPT, reason, original=Original(Fate.QUARANTINED))


def with_way_back(arrival: Arrival, guest: GuestToConvert, notes: Notes) -> Arrival:
    """Return a guest's arrival; if its overlay is damaged, the error names the original."""
    error = arrival.error
    is_damage = isinstance(error, ImageError | VerificationError) and not isinstance(error, DifferenceError)
    if error is None or not is_damage:
        return arrival
    return replace(arrival, error=original_too(error, guest, notes))
