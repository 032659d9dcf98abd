"""Atomic replacement of a file: even after a crash, it has either all of the new content or all of the old."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from batchdiff.files import own_files


def write_whole(path: str, pieces: Iterable[str], *, encoding: str = "ascii", mode: int | None = None) -> None:
    """Write a file under a temporary name, make it durable, and rename it.

    A symbolic link at ``path`` is replaced, not followed. Without ``mode``, a file that replaces a regular file
    gets that file's mode and, as far as this user may set it, its owner; any other file gets its mode from the
    umask.

    :raises OSError: it cannot be written.
    """
    temporary = own_files.temporary(path)
    with open(temporary, "x", encoding=encoding) as file:
        try:
            if mode is None:
                _keep_readers(file.fileno(), path)
            else:
                os.fchmod(file.fileno(), mode)
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    sync_folder(os.path.dirname(path))


def _keep_readers(fd: int, path: str) -> None:
    """Give a file the owner and mode of the regular file that it will replace, if any, as far as this user can."""
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode):
            with contextlib.suppress(PermissionError):  # only root may change the owner
                os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))


def discard_leftovers(path: str) -> None:
    """Remove the temporary files of ``path`` that :func:`write_whole` left behind when its process was killed.

    Those of a path whose name is too long stay: see :func:`own_files.is_temporary_of`. The caller must ensure
    that no process is writing ``path`` now.

    :raises OSError: the folder cannot be listed, or a file cannot be removed.
    """
    folder = os.path.dirname(path)
    for name in os.listdir(folder):
        if own_files.is_temporary_of(name, path):
            os.unlink(os.path.join(folder, name))


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
