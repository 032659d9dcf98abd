"""The result of `batchdiff verify` for one file."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Health(enum.StrEnum):
    """The condition of a file."""

    SOUND = "sound"
    TOUCHED = "touched"
    """Its times or its identity have changed, but not its content."""
    IN_USE = "in-use"
    """A VM or another program is using it, so it was not checked."""
    STALE = "stale"
    """It is missing or not as planned, so the plan cannot be applied; no overlay of the plan depends on it."""
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@frozen
class Finding:
    """The condition of one file. ``name``: the guest's name, or ``template``. ``why``: the evidence, in words."""

    name: str
    path: str
    health: Health
    why: str
