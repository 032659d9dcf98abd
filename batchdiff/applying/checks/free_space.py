"""Measure how the free space of the filesystems that a command uses has changed."""

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
"""Seconds without growth after which the wait ends. Idle filesystems freed all space within 0.1 s (measured)."""

_LONGEST = 15.0
"""Seconds after which the wait ends even if free space still grows: another program may be deleting files."""

_TABLES = 64 << 10
"""Bytes that the filesystem's tables, the plan's journal and the sidecar may take during the command."""


@frozen
class FreeSpace:
    """The free bytes of each filesystem at the start of a command, by one of its folders."""

    before: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> FreeSpace:
        """Return the free space, if known, on the filesystems of guests to convert or share, and of overlays."""
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
        """Return the growth of each filesystem's free space in bytes, if known, by folder; negative if it shrank.

        ``deleted``: wait for the space of deleted files, which is freed a little later. ``expected``: the total
        growth near which the wait may end early; None if it is unknown.
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
        """Return the growth of each filesystem. ``sync``: sync it first; btrfs is always synced."""
        found = {}
        for folder, before in self.before.items():
            with contextlib.suppress(OSError):
                _sync(folder, always=sync)
                found[folder] = _free(folder) - before
        return found


def _filesystem(folder: str) -> int | bytes:
    """Return an identifier of a folder's filesystem, which all subvolumes of a btrfs have in common."""
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
    """Sync a folder's filesystem if it is btrfs, or if ``always`` is set.

    btrfs frees the blocks of a deleted file with the next sync. XFS frees them in a thread that each query of the
    free space wakes up. On any filesystem, the kernel keeps a deleted file for some milliseconds (23 to 60
    measured) after a program that compared it under Landlock has ended.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if always or filesystem_uuid(fd):
            _libc.syncfs(fd)
    finally:
        os.close(fd)
