"""A file or folder that `batchdiff discover` left out, and why; pure."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen


class Cause(enum.StrEnum):
    """The kind of reason."""

    OVERLAY = "overlay"
    """An image with a backing file."""

    IN_USE = "in use"
    UNREADABLE = "unreadable"
    """A file that cannot be sampled, or a folder that cannot be searched."""

    DOUBTFUL = "doubtful format"
    """A file whose name and content do not show its format with certainty."""

    UNLIKE = "unlike"
    """An image that is not clearly similar to any template."""

    UNUSABLE = "unusable"
    """A backing file, a probable original, or an image whose disk is smaller than that of a template like it."""

    PART = "part"
    """An extent or the data file of another image."""

    SAME_FILE = "same file"
    OWN = "own"
    """A file named like batchdiff's own files."""

    EMPTY = "empty"

    @property
    def is_fault(self) -> bool:
        """True if the operator might make the file or folder usable."""
        return self in {Cause.IN_USE, Cause.UNREADABLE, Cause.DOUBTFUL}


@frozen
class Exclusion:
    """A file or folder that was left out.

    ``reason``: text to put after the path, with ``it`` for the file; the last full stop may be missing.
    ``template``: the path of the template that the reason concerns; may be empty.
    """

    path: str
    cause: Cause
    reason: str
    template: str = ""
