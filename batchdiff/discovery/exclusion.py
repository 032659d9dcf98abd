"""A file that `batchdiff discover` left out, and why; pure."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Cause(enum.StrEnum):
    """The kind of reason, for scripts."""

    OVERLAY = "overlay"
    """An image with a backing file."""

    IN_USE = "in use"
    UNREADABLE = "unreadable"
    """A file that cannot be sampled, for example because it is damaged or encrypted, or a folder that cannot be
    listed."""

    DOUBTFUL = "doubtful format"
    """A file whose name contradicts its content, or whose content a guest may have written."""

    UNLIKE = "unlike"
    """An image with too little in common with any template, or the only image."""

    UNUSABLE = "unusable"
    """A backing file, an image that seems to be an original, or one with a smaller disk than its template."""

    PART = "part"
    """An extent or the data file of another image."""

    SAME_FILE = "same file"
    OWN = "own"
    """A file with a name like those of batchdiff's own files."""

    EMPTY = "empty"
    """An image in which no data was found."""

    @property
    def is_fault(self) -> bool:
        """True if the operator might make the file usable."""
        return self in {Cause.IN_USE, Cause.UNREADABLE, Cause.DOUBTFUL}


@frozen
class Exclusion:
    """A file that was left out, or a folder that cannot be listed.

    ``reason``: text to put after the path, with ``it`` for the file; the last full stop may be missing.
    ``template``: the path of the template that the reason concerns; empty if there is none.
    """

    path: str
    cause: Cause
    reason: str
    template: str = ""
