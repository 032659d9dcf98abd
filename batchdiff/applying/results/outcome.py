"""The result of apply, restore or purge for one guest."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """The result for a guest, in one word."""

    CONVERTED = "converted"
    UNCHANGED = "unchanged"
    """Nothing was left to do."""
    RETIRED = "retired"
    """Its overlay existed already; this run quarantined or deleted its original."""
    KEPT = "kept"
    """Its original stays in quarantine, because its VM has run on the overlay since."""
    WOULD_RESTORE = "would-restore"
    WOULD_PURGE = "would-purge"
    """With --dry-run: the result that a run would have."""
    RESTORED = "restored"
    PURGED = "purged"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class GuestOutcome:
    """The result for one guest. Sizes are in bytes, None if there is no such file or number.

    ``original`` is the fate of the original, in words; ``exit_code`` is the code for a run of this guest alone;
    ``notes`` are remarks for the operator, also if all went well.
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
