"""The identity of a file."""

from __future__ import annotations

import os
import stat
from typing import TypeAlias

Identity: TypeAlias = tuple[str, int, int]
"""``("file", device, inode)``; for a block device, ``("device", number, 0)``, whichever node names it."""


def identity_of(path: str) -> Identity | None:
    """Return the identity of the file that a path resolves to; None if it cannot be examined."""
    try:
        return identity_in(os.stat(path))
    except (OSError, ValueError):
        return None


def is_one_image(one: str, other: str) -> bool:
    """Return whether two paths resolve to the same path or block device.

    Two hard links to a file are two images: replacing one leaves the other unchanged.
    """
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    identity = identity_of(one)
    return identity is not None and identity[0] == "device" and identity == identity_of(other)


def identity_in(status: os.stat_result) -> Identity:
    """Return the identity in a result of ``os.stat``."""
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev, 0)
    return ("file", status.st_dev, status.st_ino)
