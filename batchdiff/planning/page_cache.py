"""Gives the page cache back behind a scan: what was there before stays, what the scan brought in goes.

::

    file     | block of 64 MiB: asked once, before its first read, which pages are absent | next block ...
    reads    |#####|#####|.....          each read asks for as many bytes some MiB ahead, never over the edge
    dropped  |     |### |                what was absent and has been read; settle(): the rest that was absent

The kernel's own read-ahead is turned off: it leaves marks in the pages that make it go on over the edge, and
what it brings in there looks to the worker of the next block as if somebody else had it cached. Without any
read-ahead a scan of cold images took 2.1 times as long.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from batchdiff.image.files import content_size
from batchdiff.planning.residency import PAGE, absent_runs, tells
from batchdiff.units import KIB, MIB, align_up

BLOCK = 64 * MIB
"""A range of a raw image, so that no two workers are in one block of it."""

_AHEAD = 8 * MIB
"""How far ahead is asked. Measured on a disk of 300 MB/s: with 2 MiB a cold scan took 1.8 times as long as
with the kernel's read-ahead, with this 1.3 times."""

_AHEAD_IN_ALL = 256 * MIB
"""What many files share: with a thousand guests each has half a window."""

_STEP = 128 * KIB
"""The kernel reads no more than its read-ahead for one POSIX_FADV_WILLNEED; this is its default."""

Runs = list[tuple[int, int]]


class _File(NamedTuple):
    device: int
    inode: int


@dataclass(slots=True)
class _Known:
    """What is known of an open file until the next settling.

    ``absent``: by block, what was not cached; ``end``: that of the last read; ``asked``: how far it was asked
    for; ``unread``: what was asked for, and then not read after all.
    """

    fd: int
    size: int
    told: bool
    absent: dict[int, Runs]
    end: int = 0
    asked: int = 0
    unread: Runs = field(default_factory=list)

    def leave(self) -> None:
        """The next read is somewhere else."""
        if self.asked > self.end:
            self.unread.append((self.end, self.asked))
        self.asked = 0


class DropBehind:
    """Watches the reads of a process."""

    def __init__(self) -> None:
        self._files: dict[_File, _Known] = {}

    def before(self, fd: int, offset: int, length: int) -> None:
        """Notes which pages are absent, and asks for those that a sequential reader will want next."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # each time: whoever opened it may have asked otherwise
        known = self._known(fd)
        for block in _blocks(offset, length):
            if block not in known.absent:
                known.absent[block] = _absent(known, block)
        end = offset + length
        if offset == known.end != 0:  # a read of the head of an image need not continue
            edge = min(align_up(end, BLOCK), known.size)
            first = max(known.asked, end)
            known.asked = min(end + min(_AHEAD, _AHEAD_IN_ALL // len(self._files)), edge)
            for at in range(first, known.asked, _STEP):
                os.posix_fadvise(fd, at, min(_STEP, known.asked - at), os.POSIX_FADV_WILLNEED)
        else:
            known.leave()
        known.end = end

    def after(self, fd: int, offset: int, length: int) -> None:
        """Drops what was absent and has been read."""
        known = self._known(fd)
        first, last = offset // PAGE * PAGE, align_up(offset + length, PAGE)
        for block in _blocks(offset, length):
            for start, end in known.absent.get(block, []):
                if start < last and first < end:
                    _drop(fd, max(start, first), min(end, last))

    def settle(self) -> None:
        """Drops what was absent and is there now, read or not; what comes after is asked for again.

        Of a file that was closed meanwhile that is done when it was opened again.
        """
        for file, known in list(self._files.items()):
            with suppress(OSError):  # it was closed
                if _file(known.fd) == file:
                    del self._files[file]
                    known.leave()
                    for start, end in known.unread:
                        os.pread(known.fd, end - start, start)  # waits: a page under way cannot be dropped
                    for runs in known.absent.values():
                        for start, end in runs:
                            _drop(known.fd, start, end)

    def _known(self, fd: int) -> _Known:
        file = _file(fd)
        known = self._files.get(file)
        if known is None:
            known = self._files[file] = _Known(fd, content_size(fd), tells(fd), {})
        elif known.fd != fd:  # opened again: what was asked for by the other descriptor still comes
            known.leave()
            known.fd, known.end = fd, 0
        return known


def _file(fd: int) -> _File:
    info = os.fstat(fd)
    return _File(info.st_rdev or info.st_dev, 0 if info.st_rdev else info.st_ino)


def _blocks(offset: int, length: int) -> range:
    return range(offset // BLOCK, (offset + max(length, 1) - 1) // BLOCK + 1)


def _absent(known: _Known, block: int) -> Runs:
    start, end = block * BLOCK, min((block + 1) * BLOCK, align_up(known.size, PAGE))
    if start >= end:
        return []
    return absent_runs(known.fd, start, end) if known.told else [(start, end)]


def _drop(fd: int, start: int, end: int) -> None:
    os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
