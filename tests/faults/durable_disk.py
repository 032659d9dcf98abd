"""What a power cut would leave, known at every moment when a file gets or loses a name, or its write bits.

::

    fsync(file)                content and mode of the file are durable, as they are then
    fsync(folder)              so are the names in it
    rename, unlink, fchmod     nothing is, until the next fsync of the folder, or of the file

Only calls of this process are seen: of Python's ``os``, and renameat2 in ``renaming``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchdiff.linux import rename as renaming

State = tuple[str, int]
"""Hash of a file's content, and its mode."""


@dataclass
class Disk:
    """What is durable: names by folder, states by inode. ``moment`` is called just before each change."""

    moment: Callable[[Change], None]
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)

    def take(self, path: Path, *, content: bool) -> None:
        """Takes a file for durable that was there before."""
        self.names.setdefault(str(path.parent), {})[path.name] = path.stat().st_ino
        if content:
            self.states[path.stat().st_ino] = _state(str(path))

    def has_name(self, path: Path) -> bool:
        """Whether the file that has this name now has it durably, or no file has it, durably."""
        now = path.stat().st_ino if path.exists() else None
        return self.names.get(str(path.parent), {}).get(path.name) == now

    def has_content(self, path: Path) -> bool:
        """Whether the content and mode of this file are durable as they are now, whatever its name."""
        return path.exists() and self.states.get(path.stat().st_ino) == _state(str(path))

    def has(self, path: Path) -> bool:
        """Whether a file is there, and would be after a power cut, as it is."""
        return path.exists() and self.has_name(path) and self.has_content(path)

    def sync(self, fd: int) -> None:
        """What fsync has made durable."""
        path, info = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            self.names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
        elif stat.S_ISREG(info.st_mode):
            self.states[info.st_ino] = _state(f"/proc/self/fd/{fd}")


@dataclass(frozen=True)
class Change:
    """A call that changes names or modes: ``target`` is a rename's new name."""

    call: str
    path: Path
    target: Path | None = None


@contextlib.contextmanager
def watched(moment: Callable[[Disk, Change], None]) -> Iterator[Disk]:
    """Inside, the calls of this process that change a disk are seen; ``moment`` is called just before each."""
    disk = Disk(lambda change: moment(disk, change))
    with pytest.MonkeyPatch.context() as patch:
        _watch_os(patch, disk)
        patch.setattr(renaming, "_libc", _Libc(disk, renaming._libc))
        yield disk


def _watch_os(patch: pytest.MonkeyPatch, disk: Disk) -> None:
    real_fsync, real_fchmod, real_rename, real_unlink = os.fsync, os.fchmod, os.rename, os.unlink

    def fsync(fd: int) -> None:
        real_fsync(fd)
        disk.sync(fd)

    def fchmod(fd: int, mode: int) -> None:
        disk.moment(Change("fchmod", Path(os.readlink(f"/proc/self/fd/{fd}"))))
        real_fchmod(fd, mode)

    def rename(source: str, target: str) -> None:
        disk.moment(Change("rename", Path(source), Path(target)))
        real_rename(source, target)

    def unlink(path: str) -> None:
        disk.moment(Change("unlink", Path(path)))
        real_unlink(path)

    for function in (fsync, fchmod, rename, unlink):
        patch.setattr(os, function.__name__, function)


class _Libc:
    """The C library's renameat2, watched."""

    def __init__(self, disk: Disk, real) -> None:
        self._disk, self._real = disk, real

    def renameat2(self, folder: int, source: bytes, other: int, target: bytes, flags: object) -> int:
        self._disk.moment(Change("rename", Path(os.fsdecode(source)), Path(os.fsdecode(target))))
        return self._real.renameat2(folder, source, other, target, flags)


def _state(path: str) -> State:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
