"""What `batchdiff verify` found of one file."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Health(enum.StrEnum):
    """Whether a file still is what it was."""

    SOUND = "sound"
    TOUCHED = "touched"
    """Its times or its identity changed, its content did not."""
    IN_USE = "in-use"
    """A VM is running on it, so it was not checked."""
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One file: ``name`` is the guest's, or ``template``; ``why`` says how that is known, in words."""

    name: str
    path: str
    health: Health
    why: str
