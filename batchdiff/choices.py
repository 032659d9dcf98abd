"""The choices that an operator makes in manifests and on the command line, and a plan's verdicts."""

from __future__ import annotations

import enum


class Retire(enum.StrEnum):
    """A way to retire an original."""

    KEEP = "keep"
    QUARANTINE = "quarantine"
    DELETE = "delete"


class Strategy(enum.StrEnum):
    """A way in which a guest gives back space."""

    OVERLAY = "overlay"
    SHARE = "share"
    """The guest shares blocks on disk with the template, but does not depend on it."""


class Loss(enum.StrEnum):
    """A feature of an image that is given up only if the operator allows that."""

    SNAPSHOTS = "snapshots"
    BITMAPS = "bitmaps"
    ENCRYPTION = "encryption"
    PREALLOCATION = "preallocation"


OF_OVERLAYS = (Loss.SNAPSHOTS, Loss.BITMAPS)
"""The losses that `restore --allow-loss` can allow."""


class VerifyMode(enum.StrEnum):
    """A mode of verification. Apply deletes an original only after FULL verification."""

    FULL = "full"
    CHANGED = "changed"
    NATIVE = "native"


class Verdict(enum.StrEnum):
    """A plan's decision for a guest."""

    CONVERT = "convert"
    SHARE = "share"
    SKIP = "skip"
    REFUSE = "refuse"


NO_MINIMUM = "none"
"""The ``minimum_savings`` with which guests are converted even if they will then take more space.

This does not hold for guests that already are overlays of the template.
"""
