"""The disk space that sharing blocks of a guest with its template frees, as df shows it.

::

    XFS      a block of the guest is freed once no file has it
    btrfs    | extent of the guest: 128 MiB                    |     the whole extent is freed once no file has
             | shared | changed: now in other extents | shared |     any block of it; until then, none of it is
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.image.storage.allocation_units import MEASURED, why_not_measured
from batchdiff.image.storage.block_ranges import Offsets, overlaps
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.image.storage.shareable import ShareableRange
from batchdiff.linux.btrfs import is_btrfs, stored_extents
from batchdiff.linux.fiemap import NO_EXTENTS, ExtentFlag, ExtentTable, extent_table
from batchdiff.linux.mounts import filesystem_of

_AT_ONCE = 4096
_LISTING = 25
"""Bytes that XFS needs to list an extent if extents are split one by one (measured)."""

_OF_OTHERS = (
    "blocks that other files or snapshots also use are freed only once no file uses them; if those files"
    " are guests, sharing the blocks of all of them would free the space, but each guest is judged on its own"
)
_WITHOUT_TREE = (
    "btrfs frees an extent only once no file has any part of it, and only root (CAP_SYS_ADMIN) can see the extents"
)


@frozen
class SharingGain:
    """The bytes by which free space grows; ``note``: why this number is not exact."""

    freed: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""


def sharing_gain(guest: Image, ranges: Iterable[ShareableRange]) -> SharingGain:
    """Return the space that is freed if all these ranges are shared with the template.

    :raises ImageError, OSError: the filesystem reports an error.
    """
    files: dict[int, _File] = {}
    for batch in _batches(ranges):
        for number, starts, ends in _by_file(batch):
            if number not in files:
                files[number] = _file(guest.layers[number])
            files[number].drop(starts, ends)
    gains = [file.gain() for file in files.values()]
    return SharingGain(
        sum(gain.freed for gain in gains),
        of_sum(gain.exactness for gain in gains),
        next((gain.note for gain in gains if gain.note), ""),
    )


def raw_sharing_gain(guest: Image, starts: Offsets, ends: Offsets, shared: ExtentTable) -> SharingGain:
    """Return the gain for ranges, sorted and disjoint, of a raw guest's only file.

    :raises ImageError, OSError: the filesystem reports an error.
    """
    file = _file(guest.layers[0], shared)
    file.drop(starts, ends)
    return file.gain()


def _batches(ranges: Iterable[ShareableRange]) -> Iterator[list[ShareableRange]]:
    rest = iter(ranges)
    while batch := list(itertools.islice(rest, _AT_ONCE)):
        yield batch


def _by_file(batch: list[ShareableRange]) -> Iterator[tuple[int, Offsets, Offsets]]:
    layers, offsets, lengths = np.array([each[2:] for each in batch], dtype=np.int64).T
    for number in np.unique(layers).tolist():
        order = np.argsort(np.where(layers == number, offsets, -1), kind="stable")[-(layers == number).sum() :]
        yield number, offsets[order], offsets[order] + lengths[order]


class _File(Protocol):
    """A file that gives up blocks."""

    def drop(self, starts: Offsets, ends: Offsets) -> None:
        """Note ranges, sorted and disjoint, that will be shared."""

    def gain(self) -> SharingGain:
        """Return the space that is freed."""


def _file(layer: Layer, shared: ExtentTable | None = None) -> _File:
    if shared is None:
        shared = extent_table(layer.fd, layer.path, having=ExtentFlag.SHARED) or NO_EXTENTS
    kind = filesystem_of(layer.fd)
    if not is_btrfs(layer.fd):
        note = "" if kind in MEASURED else why_not_measured(kind)
        return _ByBlocks(layer, shared, Exactness.UNKNOWN if note else Exactness.EXACT, note)
    try:
        return _ByExtents.of(layer, shared)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES}:
            raise
        return _ByBlocks(layer, shared, Exactness.UNKNOWN, _WITHOUT_TREE)


@dataclass(slots=True)
class _ByBlocks:
    """A file whose blocks are counted one by one.

    On btrfs, the gain is then unknown: an extent may stay because other parts of it are used, or may be freed
    along with overwritten parts, which FIEMAP does not show.
    """

    layer: Layer
    shared: ExtentTable
    exactness: Exactness
    note: str
    freed: int = 0
    kept: int = 0
    ranges: int = 0

    def drop(self, starts: Offsets, ends: Offsets) -> None:
        ends = _whole_blocks(self.layer.fd, ends)
        runs = (self.shared.logical, self.shared.logical + self.shared.length)
        firsts, lasts, _, _ = overlaps((starts, ends), runs)
        kept = int((lasts - firsts).sum())
        self.kept += kept
        self.ranges += len(starts)
        self.freed += int((ends - starts).sum()) - kept

    def gain(self) -> SharingGain:
        freed = max(self.freed - self._lists(), 0)
        if self.kept:
            return SharingGain(freed, of_sum([self.exactness, Exactness.AT_LEAST]), self.note or _OF_OTHERS)
        return SharingGain(freed, self.exactness, self.note) if freed else SharingGain(0)

    def _lists(self) -> int:
        """Estimate the growth of XFS's list of extents: sharing a range can split an extent into three."""
        if filesystem_of(self.layer.fd) != "xfs":
            return 0
        block = os.fstatvfs(self.layer.fd).f_bsize
        return 2 * self.ranges * _LISTING // block * block


@dataclass(slots=True)
class _ByExtents:
    """A file on btrfs: its parts, their extents, and the bytes ``left`` of each part."""

    layer: Layer
    starts: Offsets
    left: Offsets
    physical: Offsets
    disk_bytes: Offsets
    is_shared: np.ndarray[tuple[int], np.dtype[np.bool_]]
    ends: Offsets = field(init=False)

    def __post_init__(self) -> None:
        self.ends = self.starts + self.left

    @classmethod
    def of(cls, layer: Layer, shared: ExtentTable) -> _ByExtents:
        parts = np.array(list(stored_extents(layer.fd, layer.path)), dtype=np.int64).reshape(-1, 4)
        starts, lengths, physical, disk_bytes = parts.T
        # An extent is shared as a whole, so a part of it is shared if the start of the part is. FIEMAP may report
        # several parts as one.
        number = np.searchsorted(shared.logical, starts, side="right") - 1
        ends = shared.logical + shared.length
        is_shared = (number >= 0) & (starts < ends[number]) if len(ends) else np.zeros(len(starts), dtype=np.bool_)
        return cls(layer, starts, lengths.copy(), physical, disk_bytes, is_shared)

    def drop(self, starts: Offsets, ends: Offsets) -> None:
        ends = _whole_blocks(self.layer.fd, ends)
        firsts, lasts, _, number = overlaps((starts, ends), (self.starts, self.ends))
        np.subtract.at(self.left, number, lasts - firsts)

    def gain(self) -> SharingGain:
        _, first, extent = np.unique(self.physical, return_index=True, return_inverse=True)
        left, shared = np.zeros(len(first), dtype=np.int64), np.zeros(len(first), dtype=np.bool_)
        np.add.at(left, extent, self.left)
        np.logical_or.at(shared, extent, self.is_shared)
        gone = left == 0
        freed = int(self.disk_bytes[first][gone & ~shared].sum())
        if (gone & shared).any():
            return SharingGain(freed, Exactness.AT_LEAST, _OF_OTHERS)
        return SharingGain(freed)


def _whole_blocks(fd: int, ends: Offsets) -> Offsets:
    """Round up to blocks: a range that ends with its file may end within a block."""
    block = os.fstatvfs(fd).f_bsize
    return -(-ends // block) * block
