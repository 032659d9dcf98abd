"""Fingerprints, which show whether a file was changed or replaced.

::

    same file     inode and filesystem; without a lasting identifier of the filesystem: inode and device number,
                  or inode, size and mtime, because device numbers can change with a reboot
    unchanged     the same file with the same size, mtime and ctime
    block device  its size only: neither its number nor its times depend on its content
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace

from batchdiff.errors import advice_on_limit
from batchdiff.files.filesystem_id import filesystem_id, filesystem_id_at
from batchdiff.frozen import frozen

REPLACED = "another file is in its place"
PERHAPS_REPLACED = f"it was written to, or {REPLACED}"
GONE = "it is gone, or cannot be examined"


@frozen(eq=False)
class Fingerprint:
    """Identity and last change of a file.

    Equal means unchanged, as in the module's table, so ``device`` may differ. A block device has inode 0 and no
    times.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    filesystem: str = ""

    @property
    def vouches_for_content(self) -> bool:
        """False for a block device: an equal fingerprint does not mean equal content."""
        return self.inode != 0

    def is_same_file(self, now: Fingerprint) -> bool:
        """Return whether the file is the same; its content may have changed.

        For block devices, compare only the sizes.
        """
        if self.inode != now.inode:
            return False
        if not self.vouches_for_content:
            return self.size == now.size
        if self.filesystem and now.filesystem:
            return self.filesystem == now.filesystem
        return self.device == now.device or (self.size, self.mtime_ns) == (now.size, now.mtime_ns)

    def is_unwritten(self, now: Fingerprint) -> bool:
        """Return whether the file is the same, and has not been written to; its name or mode may have changed.

        For block devices, compare only the sizes.
        """
        return self.is_same_file(now) and (self.size, self.mtime_ns) == (now.size, now.mtime_ns)

    def was_written_to(self, now: Fingerprint) -> bool:
        """Return whether a file, or a copy that keeps its times, has been written to.

        For block devices, compare only the sizes.
        """
        return (self.size, self.mtime_ns) != (now.size, now.mtime_ns)

    def changes(self, now: Fingerprint | None) -> str:
        """Describe the changes as clauses; empty if there are none. ``now``: see :func:`fingerprint_at`."""
        if now is None:
            return GONE
        if not self.is_same_file(now):
            if self.vouches_for_content or now.vouches_for_content:
                # After a write and a new device number, nothing but the inode is left to recognise a file by.
                is_known = self.inode != now.inode or (self.filesystem and now.filesystem)
                return REPLACED if is_known else PERHAPS_REPLACED
            sizes = f"its size in bytes changed from {self.size} to {now.size}"
            return f"{sizes}, so it was resized, or another block device has its name"
        only_ctime = self.is_unwritten(now) and self.ctime_ns != now.ctime_ns
        changes = (
            (self.size != now.size, f"its size in bytes changed from {self.size} to {now.size}"),
            (self.mtime_ns != now.mtime_ns, "its modification time changed (mtime)"),
            (only_ctime, "it changed, perhaps only in its mode or name (ctime)"),
        )
        return " and ".join(text for is_so, text in changes if is_so)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and self.is_same_file(other) and self._state == other._state

    def __hash__(self) -> int:
        return hash((self.inode, self._state))  # not the device, which may differ between equal fingerprints

    @property
    def _state(self) -> tuple[int, int, int]:
        return self.size, self.mtime_ns, self.ctime_ns


NO_FILE = Fingerprint(device=0, inode=-1, size=0, mtime_ns=0, ctime_ns=0)
"""A fingerprint that no file has."""


def fingerprint_of(fd: int, size: int) -> Fingerprint:
    """Return the fingerprint of an open file."""
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return Fingerprint(info.st_rdev, 0, size, 0, 0)
    return _of_regular(info, size, filesystem_id(fd))


def fingerprint_at(path: str) -> Fingerprint | None:
    """Return the fingerprint of a file; None if it cannot be examined.

    Only block devices are opened. Links to them are followed, because the name /dev/vg/lv lasts, but that of its
    target, /dev/dm-3, does not. A link to any other file is not followed: the result is the
    link's own fingerprint.

    :raises OSError: a limit of the system was reached.
    """
    try:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode) and stat.S_ISBLK((behind := os.stat(path)).st_mode):
            info = behind
        if not stat.S_ISBLK(info.st_mode):
            return _of_regular(info, info.st_size, filesystem_id_at(os.path.dirname(path), info.st_dev))
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        if advice_on_limit(error):
            raise  # the file may exist
        return None
    try:
        return replace(fingerprint_of(fd, os.lseek(fd, 0, os.SEEK_END)), device=info.st_rdev)
    finally:
        os.close(fd)


def _of_regular(info: os.stat_result, size: int, filesystem: str) -> Fingerprint:
    return Fingerprint(info.st_dev, info.st_ino, size, info.st_mtime_ns, info.st_ctime_ns, filesystem)
