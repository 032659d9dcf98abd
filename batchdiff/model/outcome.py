"""What apply, restore or purge did with one guest."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a guest came out of it."""

    CONVERTED = "converted"
    UNCHANGED = "unchanged"
    """There was nothing left to do."""
    RETIRED = "retired"
    """Its overlay was there already; now its original has been quarantined or deleted."""
    KEPT = "kept"
    """Its original stays in quarantine, because its VM has run on the overlay since."""
    WOULD_RESTORE = "would-restore"
    WOULD_PURGE = "would-purge"
    """With --dry-run: what would be done."""
    RESTORED = "restored"
    PURGED = "purged"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class GuestOutcome:
    """One guest after an apply. Sizes in bytes, None where there is no such file or number.

    ``original`` says what became of the original; ``exit_code`` is what this guest alone would lead to;
    ``notes`` are what the operator should know all the same.
    """

    name: str
    status: Status
    reason: str = ""
    predicted_overlay_bytes: int | None = None
    actual_overlay_bytes: int | None = None
    predicted_overlay_disk_bytes: int | None = None
    actual_overlay_disk_bytes: int | None = None
    original: str = "untouched"
    exit_code: int = 0
    notes: tuple[str, ...] = ()
