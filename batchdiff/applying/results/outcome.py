"""The result of apply, restore or purge for one guest."""

from __future__ import annotations

import enum
from typing import NamedTuple

from batchdiff.applying.journal.records import Fate
from batchdiff.frozen import frozen


class Status(enum.StrEnum):
    """The result for a guest, in one word."""

    CONVERTED = "converted"
    SHARED = "shared"
    """It shares blocks with the template now; nothing else about it has changed."""
    UNCHANGED = "unchanged"
    """Nothing was left to do."""
    RETIRED = "retired"
    """Its overlay existed already; this run quarantined or deleted its original."""
    KEPT = "kept"
    """Its original stays in quarantine, because it differs from the VM's disk, or that disk is in use."""
    WOULD_RESTORE = "would-restore"
    WOULD_PURGE = "would-purge"
    """With --dry-run: the result that a real run would have."""
    RESTORED = "restored"
    PURGED = "purged"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


class Original(NamedTuple):
    """What became of an original: ``aside`` is its path in quarantine, ``doubt`` why its fate is unknown."""

    fate: Fate
    aside: str | None = None
    doubt: str = ""


UNTOUCHED = Original(Fate.UNTOUCHED)


@frozen
class GuestOutcome:
    """The result for one guest. Sizes are in bytes, None if there is no such file or number.

    ``gained_bytes``: by how much this run has increased the free space, negative if what it wrote takes more space
    than was freed; None if it wrote, deleted and shared nothing, or if the number is not known. ``exit_code`` is
    the code for a run of this guest alone; ``remarks`` are for the operator, even if all went well.
    """

    name: str
    status: Status
    reason: str = ""
    predicted_overlay_bytes: int | None = None
    actual_overlay_bytes: int | None = None
    predicted_overlay_disk_bytes: int | None = None
    actual_overlay_disk_bytes: int | None = None
    original: Original = UNTOUCHED
    exit_code: int = 0
    remarks: tuple[str, ...] = ()
    gained_bytes: int | None = None
