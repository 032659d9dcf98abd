"""Rename files durably, without replacing any."""

from __future__ import annotations

import ctypes
import errno
import os

from batchdiff.files.atomic_write import sync_folder

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def rename_without_replacing(source: str, target: str) -> None:
    """Rename a file within its filesystem, and make that durable. Both paths must include a folder.

    Where RENAME_NOREPLACE is unsupported, make a hard link and delete the old name: link(2) does not replace a
    file either. Source: renameat2(2).

    :raises FileExistsError: ``target`` exists.
    :raises OSError: the file cannot be renamed durably.
    """
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(_RENAME_NOREPLACE)
    )
    if result != 0:
        code = ctypes.get_errno()
        if code not in {errno.EINVAL, errno.ENOSYS}:
            raise OSError(code, os.strerror(code), source, None, target)
        os.link(source, target, follow_symlinks=False)
        os.unlink(source)
    for folder in {os.path.dirname(source), os.path.dirname(target)}:
        sync_folder(folder)
