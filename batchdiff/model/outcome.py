"""What an apply did with one guest."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.StrEnum):
    """How a guest came out of an apply."""

    CONVERTED = "converted"
    UNCHANGED = "unchanged"
    """An earlier apply had done it."""
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
