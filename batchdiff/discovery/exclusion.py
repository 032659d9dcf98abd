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
    """It is missing, damaged, encrypted or not an image, or its path, the permissions or a missing program prevent
    batchdiff from reading it."""

    DOUBTFUL = "doubtful format"
    """Its name and its content disagree, or a guest could have written that content."""

    UNLIKE = "unlike"
    """It has too little in common with every template, or there is no other image."""

    UNUSABLE = "unusable"
    """It cannot be a guest: it is a backing file or a converted original, or its disk is smaller than that of the
    template."""

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
    """A file, or a folder that cannot be listed, that was left out.

    ``reason``: one or more sentences, in which ``it`` is the file; the last full stop may be missing.
    ``template``: the path of the template that the reason concerns; empty if it concerns none.
    """

    path: str
    cause: Cause
    reason: str
    template: str = ""
