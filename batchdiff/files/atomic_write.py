"""Atomic replacement of a file: even after a crash, it has all of the new content or all of the old."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from batchdiff.files import own_files


def write_whole(path: str, pieces: Iterable[str], *, encoding: str = "ascii", mode: int | None = None) -> None:
    """Write or replace a file, atomically and durably.

    ``path`` must include a folder. If ``path`` is a symbolic link, the link is replaced, not followed. Without
    ``mode``, the file gets, as far as possible, the owner, group and mode of a regular file that it replaces.

    :raises OSError: the file cannot be written or made durable.
    :raises UnicodeEncodeError: a piece cannot be encoded.
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
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode):
            # Only root may change the owner. In a container, some owners and groups are not mapped, so they cannot
            # be set.
            for owner, group in ((-1, info.st_gid), (info.st_uid, -1)):
                with contextlib.suppress(OSError):
                    os.fchown(fd, owner, group)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))


def discard_leftovers(path: str) -> None:
    """Remove the temporary files that :func:`write_whole` left behind in a crash.

    Those with a shortened name stay: see :func:`own_files.is_temporary_of`. Call this only while no process is
    writing ``path``.

    :raises OSError: the files cannot be listed or removed.
    """
    folder = os.path.dirname(path)
    for name in os.listdir(folder):
        if own_files.is_temporary_of(name, path):
            os.unlink(os.path.join(folder, name))


def sync_folder(path: str) -> None:
    """Make the names in a folder durable.

    :raises OSError: the folder cannot be synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
