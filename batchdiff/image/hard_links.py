"""Whether a file has further names, which keep its bytes when one is deleted, and how to find them."""

from __future__ import annotations

import os

from batchdiff.image.names import shell_word


def other_names(fd: int, path: str) -> str:
    """Return, in words, that an open file has more names than this one; empty if it has none."""
    count = os.fstat(fd).st_nlink
    if count <= 1:
        return ""
    find = f"find {shell_word(_mount_point(path))} -xdev -samefile {shell_word(path)}"
    return f"it has {count} names (hard links); `{find}` lists them"


def _mount_point(path: str) -> str:
    """Return where the filesystem of a file is mounted: all its hard links are below."""
    folder = os.path.dirname(path)
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return folder
