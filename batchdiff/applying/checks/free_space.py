"""Measure by how much a command has increased the free space, as df shows it, on the filesystems that it uses."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from batchdiff.frozen import frozen
from batchdiff.linux.btrfs import filesystem_uuid
from batchdiff.plan.plan import Plan

_libc = ctypes.CDLL(None, use_errno=True)

_BETWEEN = 0.05
"""Seconds between two queries. When measured, XFS freed a small file within 3 ms of the first query."""

_LOOKS = 40
"""The maximum number of queries. If free space is still growing after that, another program is deleting files."""


@frozen
class FreeSpace:
    """The free bytes of each filesystem at the start, by one of its folders."""

    before: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> FreeSpace:
        """Return the free space on the filesystems of the guests to convert or share, and of their overlays."""
        folders: dict[int | bytes, str] = {}
        for guest in (*plan.to_convert, *plan.to_share):
            for path in (guest.overlay_path, guest.source.path):
                with contextlib.suppress(OSError):
                    folder = os.path.dirname(path)
                    folders.setdefault(_filesystem(folder), folder)
        found = {}
        for folder in folders.values():
            with contextlib.suppress(OSError):
                found[folder] = _free(folder)
        return cls(found)

    def grown(self, *, deleted: bool = True) -> dict[str, int]:
        """Return how many free bytes each filesystem has gained, by folder; other programs may write meanwhile.

        ``deleted``: whether files were deleted, whose space may be freed a little later.
        """
        found = {}
        for folder, before in self.before.items():
            with contextlib.suppress(OSError):
                found[folder] = _settled(folder, _LOOKS if deleted else 0) - before
        return found


def _filesystem(folder: str) -> int | bytes:
    """Return an identifier of a folder's filesystem: on btrfs its UUID, which is the same for all subvolumes."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return filesystem_uuid(fd) or os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _free(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def _settled(folder: str, looks: int) -> int:
    """Wait until a filesystem has freed the blocks of deleted files, and return its free bytes.

    XFS and btrfs free these blocks with a delay. On btrfs a sync is enough. XFS frees them in a thread that each
    query of the free space wakes up, so query until the free space stops growing. On all filesystems the kernel
    keeps a deleted file for some milliseconds (23 measured) after the program that compared it under Landlock has
    ended.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc.syncfs(fd)
    finally:
        os.close(fd)
    found = _free(folder)
    for _ in range(looks):
        time.sleep(_BETWEEN)
        before, found = found, _free(folder)
        if found <= before:
            break
    return found
