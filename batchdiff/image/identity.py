"""What tells whether two names are one file, whatever links lead to it."""

from __future__ import annotations

import os
import stat
from typing import TypeAlias

Identity: TypeAlias = tuple[str, int, int]
"""Device and inode of a file; a block device is one by its number, whatever its node."""


def identity_of(path: str) -> Identity | None:
    """The identity of the file at the end of all links, None where there is none."""
    try:
        return identity_in(os.stat(path))
    except (OSError, ValueError):
        return None


def is_one_image(one: str, other: str) -> bool:
    """Return whether two paths lead to one file, or to one block device by whatever names.

    Two hard links of a file are two images: replacing one leaves the other.
    """
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    identity = identity_of(one)
    return identity is not None and identity[0] == "device" and identity == identity_of(other)


def identity_in(status: os.stat_result) -> Identity:
    """The identity of the file that was asked for its status."""
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev, 0)
    return ("file", status.st_dev, status.st_ino)
