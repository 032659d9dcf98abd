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
"""Seconds between two queries."""

_QUIET = 2.0
"""Seconds without growth after which no more is expected. Idle filesystems needed up to 0.1 s when measured."""

_LONGEST = 15.0
"""Seconds after which the wait ends even if free space still grows: another program may be deleting files."""

_TABLES = 64 << 10
"""Bytes that the filesystem's own tables, the journal and the sidecar may take meanwhile."""


@frozen
class FreeSpace:
    """The free bytes of each filesystem at the start, by one of its folders."""

    before: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> FreeSpace:
        """Return the free space on the filesystems of the guests to convert or share, and of their overlays."""
        folders: dict[int | bytes, str] = {}
        on_devices = {guest.source.path for guest in plan.to_convert if guest.is_on_device}
        for guest in (*plan.to_convert, *plan.to_share):
            for path in (guest.overlay_path, guest.source.path):
                if path in on_devices:
                    continue
                with contextlib.suppress(OSError):
                    folder = os.path.dirname(path)
                    folders.setdefault(_filesystem(folder), folder)
        found = {}
        for folder in folders.values():
            with contextlib.suppress(OSError):
                found[folder] = _free(folder)
        return cls(found)

    def grown(self, *, deleted: bool = True, expected: int | None = None) -> dict[str, int]:
        """Return how many free bytes each filesystem has gained, by folder; other programs may write meanwhile.

        ``deleted``: whether files were deleted, whose space is freed a little later. ``expected``: the total
        growth at which the wait ends; None if it is unknown.
        """
        found = self._growth(sync=True)
        if not deleted or not found:
            return found
        started = grew = time.monotonic()
        most, grows = sum(found.values()), True
        while grows or not _is_near(most, expected):
            now = time.monotonic()
            if now - grew > _QUIET or now - started > _LONGEST:
                break
            time.sleep(_BETWEEN)
            found = self._growth()
            total = sum(found.values())
            grows = total > most
            if grows:
                most, grew = total, time.monotonic()
        return found

    def _growth(self, *, sync: bool = False) -> dict[str, int]:
        """Return the growth of each filesystem; ``sync``: after a sync, even if it is not btrfs."""
        found = {}
        for folder, before in self.before.items():
            with contextlib.suppress(OSError):
                _sync(folder, always=sync)
                found[folder] = _free(folder) - before
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


def _is_near(grown: int, expected: int | None) -> bool:
    return expected is not None and grown >= expected - max(abs(expected) // 16, _TABLES)


def _sync(folder: str, *, always: bool) -> None:
    """Make btrfs, or with ``always`` any filesystem, free the blocks of the files that are deleted by now.

    btrfs frees them with the next sync after the deletion. XFS frees them in a thread that each query of the free
    space wakes up. On all filesystems the kernel keeps a deleted file for some milliseconds (23 to 60 measured)
    after the program that compared it under Landlock has ended.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if always or filesystem_uuid(fd):
            _libc.syncfs(fd)
    finally:
        os.close(fd)
