"""A file that `batchdiff discover` found but did not place, and why; pure."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Cause(enum.StrEnum):
    """The kind of reason, for scripts."""

    OVERLAY = "overlay"
    """It has a backing file already."""

    IN_USE = "in use"
    UNREADABLE = "unreadable"
    """It is missing, damaged, encrypted or not an image, or its path or the permissions rule it out."""

    DOUBTFUL = "doubtful format"
    """Its name and its content disagree, or a guest could have written that content."""

    UNLIKE = "unlike"
    """It has too little in common with every other image."""

    UNUSABLE = "unusable"
    """It cannot be a guest: it is a backing file, a converted original, or smaller than its template."""

    PART = "part"
    """It is one of the files of another image."""

    SAME_FILE = "same file"
    OWN = "own"
    """It is a file that batchdiff made."""

    EMPTY = "empty"
    """It has no data."""

    @property
    def is_fault(self) -> bool:
        """True if the operator has to do something before the file can be examined."""
        return self in {Cause.IN_USE, Cause.UNREADABLE, Cause.DOUBTFUL}


@frozen
class Exclusion:
    """A file that was left out: ``reason`` is a sentence without a full stop, with ``it`` for the file.

    ``template``: the path of the image to which the reason refers; empty if it concerns no template.
    """

    path: str
    cause: Cause
    reason: str
    template: str = ""
