"""Measure by how much the free space of the filesystems has grown that a command works on, as df shows it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass

from batchdiff.model.plan import Plan

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Free bytes at the start, by a folder of each filesystem."""

    before: dict[str, int]

    @classmethod
    def of(cls, plan: Plan) -> FreeSpace:
        """Return the free space where the guests of a plan and their overlays are."""
        folders: dict[int, str] = {}
        for guest in plan.guests:
            for path in (guest.overlay_path, guest.source.path):
                with contextlib.suppress(OSError):
                    folder = os.path.dirname(path)
                    folders.setdefault(os.stat(folder).st_dev, folder)
        found = {}
        for folder in folders.values():
            with contextlib.suppress(OSError):
                found[folder] = _free(folder)
        return cls(found)

    def grown(self) -> dict[str, int]:
        """By how many bytes each has grown since, by its folder; others may have written meanwhile."""
        found = {}
        for folder, before in self.before.items():
            with contextlib.suppress(OSError):
                _settle(folder)
                found[folder] = _free(folder) - before
        return found


def _free(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def _settle(folder: str) -> None:
    """Let a filesystem finish: XFS and btrfs free the blocks of deleted files later."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc.syncfs(fd)
    finally:
        os.close(fd)
