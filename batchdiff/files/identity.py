"""The identity of a file, which shows whether two paths resolve to the same file, through whatever links."""

from __future__ import annotations

import os
import stat
from typing import TypeAlias

Identity: TypeAlias = tuple[str, int, int]
"""``("file", device, inode)``; or ``("device", number, 0)`` for a block device, whichever node names it."""


def identity_of(path: str) -> Identity | None:
    """Return the identity of the file that a path resolves to; None if there is none, or it cannot be examined."""
    try:
        return identity_in(os.stat(path))
    except (OSError, ValueError):
        return None


def is_one_image(one: str, other: str) -> bool:
    """Return whether two paths resolve to the same path, or to the same block device, even under different names.

    Two hard links of a file are two images: replacing one leaves the other unchanged.
    """
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    identity = identity_of(one)
    return identity is not None and identity[0] == "device" and identity == identity_of(other)


def identity_in(status: os.stat_result) -> Identity:
    """Return the identity of the file that a status describes."""
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev, 0)
    return ("file", status.st_dev, status.st_ino)
