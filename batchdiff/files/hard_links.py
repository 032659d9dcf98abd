"""Hard links, which keep a file's space in use when one name is deleted."""

from __future__ import annotations

import os

from batchdiff.files.filenames import shell_word


def other_names(fd: int, path: str) -> str:
    """Describe the hard links of an open file, as clauses; empty unless it has several. ``path``: absolute."""
    count = os.fstat(fd).st_nlink
    if count <= 1:
        return ""
    folder = _mount_point(path)
    find = f"find {shell_word(folder)} -xdev -samefile {shell_word(path)}"
    return f"it has {count} names (hard links); `{find}` lists those below {folder}"


def _mount_point(path: str) -> str:
    folder = os.path.dirname(path)
    while not os.path.ismount(folder):
        folder = os.path.dirname(folder)
    return folder
