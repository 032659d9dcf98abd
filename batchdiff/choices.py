"""The choices that an operator makes in manifests and on the command line, and a plan's verdicts."""

from __future__ import annotations

import enum


class Retire(enum.StrEnum):
    """The way in which an original is retired after its overlay is verified."""

    KEEP = "keep"
    QUARANTINE = "quarantine"
    DELETE = "delete"


class Strategy(enum.StrEnum):
    """The way in which a guest gives back the space taken by data that it has in common with the template."""

    OVERLAY = "overlay"
    """An overlay takes the guest's place, and depends on the template."""
    SHARE = "share"
    """The guest stays as it is, and shares blocks on disk with the template, but does not depend on it."""


class Loss(enum.StrEnum):
    """A property that a guest's image may lose in the conversion if the manifest allows it."""

    SNAPSHOTS = "snapshots"
    BITMAPS = "bitmaps"
    ENCRYPTION = "encryption"
    PREALLOCATION = "preallocation"


OF_OVERLAYS = (Loss.SNAPSHOTS, Loss.BITMAPS)
"""What may be lost with an overlay when its guest is restored, if `restore --allow-loss` allows it."""


class VerifyMode(enum.StrEnum):
    """The mode in which an overlay is verified; apply deletes an original only after FULL verification."""

    FULL = "full"
    CHANGED = "changed"
    NATIVE = "native"


class Verdict(enum.StrEnum):
    """A plan's decision for a guest."""

    CONVERT = "convert"
    SHARE = "share"
    SKIP = "skip"
    REFUSE = "refuse"
