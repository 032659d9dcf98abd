"""The blocks in which ext4 and XFS list a new file's extents; they count as blocks of the file.

::

    file      |####|    |##|######|        |####|      blocks to which something is written
    extents    1         2                  3          and, if the file's space is reserved, one for each gap
    list      in the inode, if they fit (ext4: 4); else in leaf blocks (ext4: 340 in a block of 4 KiB), which
              are listed in the same way

The count is a minimum: fragmented free space makes more extents, and XFS leaves some leaf blocks half empty.

Source: Linux ``Documentation/filesystems/ext4/ifork.rst``; ``EXT_INIT_MAX_LEN`` and ``EXT_UNWRITTEN_MAX_LEN`` in
``fs/ext4/ext4_extents.h``; ``fs/xfs/libxfs/xfs_format.h`` (``xfs_bmbt_rec``,
``XFS_BTREE_LBLOCK_CRC_LEN``, ``XFS_MAX_BMBT_EXTLEN``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from batchdiff.extents import Extents, Kind
from batchdiff.foreign.qed_layout import QedLayout, entry_ranges
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.block_ranges import Offsets
from batchdiff.plan.overlay_options import Preallocation
from batchdiff.planning.sizes.overlay_layout import AnyLayout
from batchdiff.qcow2.layout import Layout
from batchdiff.units import ceil_div


class ListFormat(NamedTuple):
    """A filesystem's way of listing a file's extents.

    ``longest``, ``longest_unwritten``: the maximum number of blocks in an extent, and in a reserved one.
    ``in_inode``: the entries that fit into the inode. ``entry``, ``header``: the bytes of an entry, and of the
    header of a block.
    """

    longest: int
    longest_unwritten: int
    in_inode: int
    entry: int
    header: int


LIST_FORMATS = {
    "ext4": ListFormat(32768, 32767, in_inode=4, entry=12, header=12),
    # For an inode of 512 bytes; extended attributes leave less room.
    "xfs": ListFormat((1 << 21) - 1, (1 << 21) - 1, in_inode=20, entry=16, header=72),
}
"""The filesystems on which the blocks of an extent list count as blocks of the file."""

_NO_LIST = LIST_FORMATS["ext4"]
"""A stand-in for filesystems on which nothing is counted."""


class WrittenRuns:
    """The minimum number of extents of a file, whose written parts are added in ascending order.

    ``reserved``: whether the gaps have blocks, too, which the filesystem marks as unwritten.
    """

    def __init__(self, lists: ListFormat, volume: Volume, *, reserved: bool = False) -> None:
        self._lists, self._volume, self._reserved = lists, volume, reserved
        self._begin = self._stop = 0  # the last run, which the next part may lengthen
        self._closed = 0

    def add(self, starts: Offsets, ends: Offsets) -> None:
        """Count parts with these starts and exclusive ends, in bytes."""
        if not len(starts):
            return
        block, longest = self._volume.block, self._lists.longest
        begins = np.concatenate([[self._begin], starts // block])
        stops = np.maximum.accumulate(np.concatenate([[self._stop], -(-ends // block)]))
        first = np.concatenate([[0], np.flatnonzero(begins[1:] > stops[:-1]) + 1])
        last = np.concatenate([first[1:] - 1, [len(begins) - 1]])
        self._closed += int((-(-(stops[last[:-1]] - begins[first[:-1]]) // longest)).sum())
        if self._reserved:
            gaps = begins[first[1:]] - stops[last[:-1]]
            self._closed += int((-(-gaps // self._lists.longest_unwritten)).sum())
        self._begin, self._stop = int(begins[first[-1]]), int(stops[-1])

    def reach(self, size: int) -> None:
        """Count any reserved space between the last part and the end of the file, at ``size`` bytes."""
        if self._reserved:
            left = ceil_div(size, self._volume.block) - self._stop
            self._closed += ceil_div(max(left, 0), self._lists.longest_unwritten)

    @property
    def extents(self) -> int:
        """The number of extents so far."""
        return self._closed + ceil_div(self._stop - self._begin, self._lists.longest)

    @property
    def list_bytes(self) -> int:
        """The bytes of the blocks that list the extents; with bigalloc, each takes a unit of several blocks."""
        in_block = (self._volume.block - self._lists.header) // self._lists.entry
        level, blocks = self.extents, 0
        while level > self._lists.in_inode:
            level = ceil_div(level, in_block)
            blocks += level
        return blocks * self._volume.unit


class OverlayLists:
    """The extent lists of an overlay and of its data file, if it has one. Add data in ascending order.

    ``extents``: in granules of ``layout``. With full preallocation, the file with the data is one run,
    because all of it is written.
    """

    def __init__(self, layout: AnyLayout, extents: Extents, volume: Volume, preallocation: Preallocation) -> None:
        cluster = layout.cluster_size if isinstance(layout, QedLayout) else layout.geometry.cluster_size
        granule = cluster if isinstance(layout, QedLayout) else layout.geometry.granule
        runs = extents.pairs(Kind.DATA) * granule
        self._starts, self._shifts = runs[:, 0], _shifts(runs, cluster, layout)
        lists, reserved = LIST_FORMATS.get(volume.filesystem), preallocation is Preallocation.FALLOC
        self._counts, self._is_full = lists is not None, preallocation is Preallocation.FULL
        outside = not isinstance(layout, QedLayout) and layout.options.outside
        # Only the file with the data is preallocated.
        self._file = WrittenRuns(lists or _NO_LIST, volume, reserved=reserved and not outside)
        if outside or not self._is_full:
            self._file.add(*metadata_parts(layout, extents, volume.block))
        self._data = WrittenRuns(lists or _NO_LIST, volume, reserved=reserved) if outside else self._file
        self._layout, self._block = layout, volume.block

    def add_data(self, starts: Offsets, ends: Offsets) -> None:
        """Count written parts of the guest, each within a run of the extents."""
        if self._is_full:
            return
        shifts = self._shifts[np.searchsorted(self._starts, starts, side="right") - 1]
        self._data.add(starts + shifts, ends + shifts)

    def add_packed(self, length: int) -> None:
        """Count compressed data, which has hardly any holes."""
        start = np.array([self._layout.data_offset])
        self._file.add(start, start + length)

    def end(self, virtual_size: int) -> int:
        """Finish the count, and return the bytes of all blocks that list extents.

        Return 0 if the filesystem is not in ``LIST_FORMATS``.
        """
        if not self._counts:
            return 0
        outside = self._data is not self._file
        if self._is_full:
            length = np.array([virtual_size if outside else self._layout.file_size])
            self._data.add(length - length, length)
        if outside:
            self._data.reach(virtual_size)
        if isinstance(self._layout, Layout):
            self._file.add(*refcount_parts(self._layout, self._block))
        return self._file.list_bytes + (self._data.list_bytes if outside else 0)


def _shifts(runs: Offsets, cluster: int, layout: AnyLayout) -> Offsets:
    """Return each run's offset in the file minus its offset in the guest, in bytes."""
    if isinstance(layout, Layout) and (layout.options.outside or layout.options.preallocated):
        return np.full(len(runs), 0 if layout.options.outside else layout.data_offset, dtype=np.int64)
    first, last = runs[:, 0] // cluster, (runs[:, 0] + runs[:, 1] - 1) // cluster
    again = np.concatenate([[0], first[1:] == last[:-1]])[: len(runs)].astype(np.int64)
    before = np.cumsum(last - first + 1 - again) - (last - first + 1)
    return np.asarray(layout.data_offset + (before - first) * cluster, dtype=np.int64)


def metadata_parts(layout: AnyLayout, extents: Extents, block: int) -> tuple[Offsets, Offsets]:
    """Return the starts and ends of the written parts of the headers and of the L1 and L2 tables."""
    if isinstance(layout, QedLayout):
        starts, ends = entry_ranges(extents, layout)
        return np.concatenate([[0], starts]), np.concatenate([[1], ends])
    l1_bytes = layout.l1_entries * 8
    parts = [(0, block), (layout.l1_offset, layout.l1_offset + l1_bytes), (layout.l2_offset, layout.data_offset)]
    if layout.options.luks_bytes:
        # Only the beginning of the LUKS header is written: one extent, for which one block stands.
        parts.insert(1, (layout.luks_offset, layout.luks_offset + block))
    starts, ends = np.array([part for part in parts if part[0] < part[1]], dtype=np.int64).T
    return starts, ends


def refcount_parts(layout: Layout, block: int) -> tuple[Offsets, Offsets]:
    """Return the starts and ends of the written parts of the refcount structures."""
    cluster, in_block = layout.geometry.cluster_size, layout.geometry.refcounts_in_block
    last = layout.refcounted % in_block or in_block
    written = (layout.refcount_blocks - 1) * cluster + ceil_div(last * layout.geometry.refcount_bits, 8)
    starts = np.array([layout.refcount_blocks_offset, layout.refcount_table_offset])
    return starts, starts + np.array([max(written, block), layout.refcount_blocks * 8])
