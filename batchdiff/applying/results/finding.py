"""The result of `batchdiff verify` for one file."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Health(enum.StrEnum):
    """The condition of a file."""

    SOUND = "sound"
    TOUCHED = "touched"
    IN_USE = "in-use"
    """A program is using it, so it was not checked."""
    STALE = "stale"
    """It is not as planned, so the plan cannot be applied; no overlay of the plan depends on it."""
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@frozen
class Finding:
    """The condition of one file. ``name``: the guest's, or ``template``."""

    name: str
    path: str
    health: Health
    why: str
