"""How an overlay is verified: a name alone, which the command line knows without loading the judges."""

from __future__ import annotations

import enum


class VerifyMode(enum.StrEnum):
    """How an overlay is verified."""

    FULL = "full"
    CHANGED = "changed"
    NATIVE = "native"
