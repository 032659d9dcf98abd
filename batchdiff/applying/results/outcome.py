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
    UNCHANGED = "unchanged"
    """Earlier runs had converted it, or shared its blocks."""
    RETIRED = "retired"
    """Its overlay existed already; this run quarantined or deleted its original."""
    KEPT = "kept"
    """Purge left its original in quarantine."""
    WOULD_RESTORE = "would-restore"
    WOULD_PURGE = "would-purge"
    RESTORED = "restored"
    PURGED = "purged"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


class Original(NamedTuple):
    """An original's fate. ``aside``: its path in quarantine. ``doubt``: why its fate is unknown."""

    fate: Fate
    aside: str | None = None
    doubt: str = ""


UNTOUCHED = Original(Fate.UNTOUCHED)


@frozen
class GuestOutcome:
    """The result for one guest; sizes are None if there is no such file or number.

    ``gained_bytes``: by how much this run has increased the free space, or a bound on that. ``exit_code``: for a
    run of this guest alone. ``remarks``: for the operator, even if all went well.
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
