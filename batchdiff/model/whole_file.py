"""Writes a file so that its name has either all of the new content or what it had before, also after a crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from batchdiff.model import own_names


def write_whole(path: str, pieces: Iterable[str]) -> None:
    """Writes an ASCII file under a temporary name, makes it durable, and gives it its name.

    A symbolic link at ``path`` is replaced, not followed.

    :raises OSError: it cannot be written.
    """
    temporary = own_names.temporary(path)
    with open(temporary, "x", encoding="ascii") as file:
        try:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    sync_folder(os.path.dirname(path))


def discard_leftovers(path: str) -> None:
    """Removes what processes that died in :func:`write_whole` left; for a caller that nobody writes beside."""
    folder = os.path.dirname(path)
    for name in os.listdir(folder):
        if own_names.is_temporary_of(name, path):
            os.unlink(os.path.join(folder, name))


def sync_folder(path: str) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
