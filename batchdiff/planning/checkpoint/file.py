"""The file of a checkpoint."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from batchdiff.files.atomic_write import sync_folder
from batchdiff.planning.checkpoint.records import CHECKPOINT_MAGIC, Record, decode


class CheckpointFile:
    """A checkpoint file, locked as long as it is open; ``end``: where :meth:`append` writes.

    ``create``: whether the file must be new; otherwise it must exist.

    :raises OSError, ValueError: the file cannot be used.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self.path = path
        self.end = 0
        try:
            fd = os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
        except FileExistsError:
            raise ValueError("another process, perhaps a `batchdiff plan`, created it meanwhile") from None
        self._file = os.fdopen(fd, "rb")
        try:
            _check_ours(os.fstat(self._file.fileno()))
            _lock(self._file.fileno())
        except BaseException:
            self._file.close()
            raise

    def records(self) -> list[Record]:
        """Return the records before the first invalid one; set ``end`` to their end, or to 0 if there are none.

        :raises OSError: the file cannot be read.
        :raises ValueError: the file is not a checkpoint of this version.
        """
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(len(CHECKPOINT_MAGIC))
        # A file that a crash cut short within the magic, even an empty one, is a checkpoint, too.
        if not CHECKPOINT_MAGIC.startswith(head):
            raise ValueError("it is not a checkpoint of this version of batchdiff")
        found = list(decode(self._file, size))
        self.end = found[-1][1] if found else 0
        return [record for record, _ in found]

    def append(self, data: bytes) -> None:
        """Replace everything from ``end`` on with data, and move ``end`` after it.

        :raises OSError: the data cannot be written; ``end`` is unchanged.
        """
        fd = self._file.fileno()
        os.ftruncate(fd, self.end)
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], self.end + done)
        self.end += len(data)

    def sync(self) -> None:
        """Sync the file and its folder."""
        os.fdatasync(self._file.fileno())
        sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def discard(self) -> None:
        """Remove the file if its path still names it."""
        ours = os.fstat(self._file.fileno())
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(self.path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                os.unlink(self.path)

    def close(self) -> None:
        """Close and unlock the file."""
        self._file.close()


def _lock(fd: int) -> None:
    """Take a POSIX lock: workers that outlive a killed planner do not inherit it."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:
            raise ValueError("another `batchdiff plan` is using it") from error
        raise


def _check_ours(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
        raise ValueError("it is not a regular file with a single hard link")
    if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("other users can write to it")
