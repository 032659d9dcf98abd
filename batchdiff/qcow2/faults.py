"""What is wrong with a qcow2 file, and what its owner can do about it."""

from __future__ import annotations

NOT_OPENED = "QEMU cannot open it either: bring it back from a backup, or leave it out of the manifest."
"""For what no VM can run on."""

ENCRYPTED = "Leave it out of the manifest: an overlay would hold in the clear what the image hides."
"""Also `qemu-img convert` would write the disk in the clear, so that is no advice."""


class FormatError(ValueError):
    """The bytes break the format's rules, or use what is not supported; the message says which.

    ``remedy`` is one sentence of advice, if there is any that is better than to look for a backup.
    """

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


def require(condition: object, problem: str, *, remedy: str = "") -> None:
    """Raise an error if a condition is false.

    :raises FormatError: it is.
    """
    if not condition:
        raise FormatError(problem, remedy=remedy)


def require_opened(condition: object, problem: str) -> None:
    """Require what QEMU requires, or it does not open the file.

    :raises FormatError: the condition is false.
    """
    require(condition, problem, remedy=NOT_OPENED)
