"""The result of `batchdiff verify` for one file."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Health(enum.StrEnum):
    """The condition of a file, compared with its recorded state."""

    SOUND = "sound"
    TOUCHED = "touched"
    """Its times or its identity have changed, but not its content."""
    IN_USE = "in-use"
    """A VM or another program is using it, so it was not checked."""
    STALE = "stale"
    """It is missing or not as planned, but no overlay depends on it: only the plan cannot be applied."""
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@frozen
class Finding:
    """One file: ``name`` is the guest's name, or ``template``; ``why`` is the evidence, in words."""

    name: str
    path: str
    health: Health
    why: str
