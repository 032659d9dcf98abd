"""What tells that a file is still the one that was planned."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity and last change of a file; of a block device, its device number and size only."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    def changes(self, now: Fingerprint) -> str:
        """What differs from a later fingerprint, in words; empty where nothing does."""
        names = [f.name for f in fields(self) if getattr(self, f.name) != getattr(now, f.name)]
        if {"device", "inode"} & set(names):
            return "another file stands in its place"
        said = {
            "size": f"its size changed from {self.size} to {now.size} bytes",
            "mtime_ns": "it was written to (mtime)",
            "ctime_ns": "its content or attributes, such as its mode, were changed (ctime)",
        }
        return " and ".join(said[name] for name in names)

    def differs_in_ctime_only(self, now: Fingerprint) -> bool:
        """Whether it is that file, and at most its name or attributes were changed: nobody wrote to it."""
        return replace(now, ctime_ns=self.ctime_ns) == self


NO_FILE = Fingerprint(0, 0, 0, 0, 0)
"""What no file has; for one that is missing, or was never finished."""


def fingerprint_of(info: os.stat_result, size: int) -> Fingerprint:
    """The fingerprint of a file with that status and that size in bytes."""
    if stat.S_ISBLK(info.st_mode):
        # The times of a device node say nothing about the content behind it.
        return Fingerprint(info.st_rdev, 0, size, 0, 0)
    return Fingerprint(info.st_dev, info.st_ino, size, info.st_mtime_ns, info.st_ctime_ns)


def fingerprint_at(path: str) -> Fingerprint | None:
    """The fingerprint of a file by its path, without keeping it open; None where there is none to read."""
    try:
        info = os.stat(path, follow_symlinks=False)
        if not stat.S_ISBLK(info.st_mode):
            return fingerprint_of(info, info.st_size)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return fingerprint_of(os.fstat(fd), os.lseek(fd, 0, os.SEEK_END))
    finally:
        os.close(fd)
