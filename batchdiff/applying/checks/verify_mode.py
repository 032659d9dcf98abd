"""The modes of verification, without the code, which the command line need not load."""

from __future__ import annotations

import enum


class VerifyMode(enum.StrEnum):
    """The mode in which an overlay is verified."""

    FULL = "full"
    CHANGED = "changed"
    NATIVE = "native"
