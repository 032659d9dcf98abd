"""Measure how a command changes the free space of filesystems."""

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
"""Seconds between queries."""

_QUIET = 2.0
"""Seconds without growth after which the wait ends; idle filesystems needed 0.1 (measured)."""

_LONGEST = 15.0
"""Seconds after which the wait ends in any case: another program may be deleting files."""

_TABLES = 64 << 10
"""Bytes that filesystem tables and batchdiff's own files may take."""


@frozen
class FreeSpace:
    """The free bytes of filesystems at the start of a command, by one folder on each."""

    before: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> FreeSpace:
        """Measure the filesystems of guests and overlays; leave out any filesystem that cannot be queried."""
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
        """Return the growth of each filesystem's free space, in bytes, by folder; leave out any that is unknown.

        ``deleted``: wait for the space of deleted files, which is freed with a delay. ``expected``: the total
        growth near which the wait may end early.
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
        found = {}
        for folder, before in self.before.items():
            with contextlib.suppress(OSError):
                _sync(folder, always=sync)
                found[folder] = _free(folder) - before
        return found


def _filesystem(folder: str) -> int | bytes:
    """Return an identifier of a folder's filesystem: on btrfs, the same one for all subvolumes."""
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

    btrfs frees the blocks of a deleted file with the next sync; XFS frees them in a thread that each query of
    free space wakes up. The kernel keeps a deleted file for some milliseconds after a program that compared it
    under Landlock has ended.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if always or filesystem_uuid(fd):
            _libc.syncfs(fd)
    finally:
        os.close(fd)
