"""From where a guest has arrived to its line in the report."""

from __future__ import annotations

import os

from batchdiff.applying.pipeline import Arrival
from batchdiff.applying.steps import Action
from batchdiff.model.outcome import GuestOutcome, Status
from batchdiff.model.plan import GuestPlan, Verdict


def not_converted(guest: GuestPlan) -> GuestOutcome:
    """A guest that the plan does not convert."""
    skipped = guest.verdict is Verdict.SKIP
    status = Status.SKIPPED if skipped else Status.REFUSED
    return GuestOutcome(guest.name, status, guest.reason, exit_code=0 if skipped else 1)


def failed(arrival: Arrival) -> GuestOutcome:
    """A guest that came no further."""
    error = arrival.error
    if error is None:
        raise AssertionError("it did not fail")
    return GuestOutcome(arrival.guest, Status.FAILED, str(error), exit_code=error.exit_code)


def converted(guest: GuestPlan, arrival: Arrival) -> GuestOutcome:
    """A guest whose overlay is in place."""
    if arrival.error is not None or arrival.conversion is None:
        return failed(arrival)
    conversion, savings = arrival.conversion, guest.savings
    info = os.stat(guest.overlay_path)
    return GuestOutcome(
        name=guest.name,
        status=_status(conversion.done),
        predicted_overlay_bytes=savings.overlay_bytes if savings else None,
        actual_overlay_bytes=info.st_size,
        predicted_overlay_disk_bytes=savings.overlay_disk_bytes if savings else None,
        actual_overlay_disk_bytes=info.st_blocks * 512,
        original=conversion.original,
        notes=tuple(conversion.notes),
    )


def _status(done: frozenset[Action]) -> Status:
    if Action.PUBLISH in done:
        return Status.CONVERTED
    return Status.RETIRED if done & {Action.QUARANTINE, Action.UNLINK} else Status.UNCHANGED


def undone(arrival: Arrival, status: Status) -> GuestOutcome:
    """A guest that was restored or purged."""
    if arrival.error is not None or arrival.conversion is None:
        return failed(arrival)
    done = arrival.conversion
    original = done.original
    if status is Status.RESTORED:
        original = "rebuilt from its overlay" if Action.WRITE in done.done else "back under its name"
    return GuestOutcome(arrival.guest, status, original=original, notes=tuple(done.notes))
