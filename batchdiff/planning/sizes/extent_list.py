"""The blocks in which ext4 lists the extents of a new file, and counts as the file's.

::

    file      |####|    |##|######|        |####|      units to which something is written
    extents    1         2                  3          at most _LONGEST blocks each
    list      in the inode, up to 4; else in leaves of 340, and above more than 4 of these, in blocks of 340 leaves

An allocator that finds no room in one piece makes more extents, which no plan can foresee: the count is the least.

Source: Linux ``Documentation/filesystems/ext4/ifork.rst``; ``EXT_INIT_MAX_LEN`` in ``fs/ext4/ext4_extents.h``.
"""

from __future__ import annotations

import numpy as np

from batchdiff.extents import Extents, Kind
from batchdiff.foreign.qed_layout import QedLayout, entry_ranges
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.block_ranges import Offsets
from batchdiff.planning.sizes.overlay_layout import AnyLayout
from batchdiff.qcow2.layout import Layout
from batchdiff.units import ceil_div

_LONGEST = 32768
"""The maximum number of blocks in an extent."""

_IN_INODE = 4
_ENTRY, _HEADER = 12, 12
_LARGEST_BLOCK = 4096
"""With larger units than that, ext4 has clusters of blocks (bigalloc), whose extents are not counted here."""


class WrittenRuns:
    """A count of the extents that the written parts of a file need at least; parts come in ascending order."""

    def __init__(self, unit: int) -> None:
        """Count on a filesystem with blocks of ``unit`` bytes."""
        self._unit = unit
        self._begin = self._stop = 0  # the last run, which the next part may lengthen
        self._closed = 0

    def add(self, starts: Offsets, ends: Offsets) -> None:
        """Count the parts between byte offsets of the file."""
        if not len(starts):
            return
        begins = np.concatenate([[self._begin], starts // self._unit])
        stops = np.maximum.accumulate(np.concatenate([[self._stop], -(-ends // self._unit)]))
        first = np.concatenate([[0], np.flatnonzero(begins[1:] > stops[:-1]) + 1])
        last = np.concatenate([first[1:] - 1, [len(begins) - 1]])
        self._closed += int((-(-(stops[last[:-1]] - begins[first[:-1]]) // _LONGEST)).sum())
        self._begin, self._stop = int(begins[first[-1]]), int(stops[-1])

    @property
    def extents(self) -> int:
        """The number of extents so far."""
        return self._closed + ceil_div(self._stop - self._begin, _LONGEST)

    @property
    def list_bytes(self) -> int:
        """The bytes of the blocks that list them."""
        in_block = (self._unit - _HEADER) // _ENTRY
        level, blocks = self.extents, 0
        while level > _IN_INODE:
            level = ceil_div(level, in_block)
            blocks += level
        return blocks * self._unit


class OverlayLists:
    """The extent lists of an overlay and of its data file, if it has one. Data is added in ascending order."""

    def __init__(self, layout: AnyLayout, extents: Extents, unit: int) -> None:
        """Count for an overlay that holds these extents, in granules of its layout."""
        cluster = layout.cluster_size if isinstance(layout, QedLayout) else layout.geometry.cluster_size
        granule = cluster if isinstance(layout, QedLayout) else layout.geometry.granule
        runs = extents.pairs(Kind.DATA) * granule
        self._starts, self._shifts = runs[:, 0], _shifts(runs, cluster, layout)
        self._file = WrittenRuns(unit)
        self._file.add(*metadata_parts(layout, extents, unit))
        outside = not isinstance(layout, QedLayout) and layout.options.outside
        self._data = WrittenRuns(unit) if outside else self._file
        self._layout, self._unit = layout, unit

    def add_data(self, starts: Offsets, ends: Offsets) -> None:
        """Count parts of the guest that are written, each within a run of the extents."""
        shifts = self._shifts[np.searchsorted(self._starts, starts, side="right") - 1]
        self._data.add(starts + shifts, ends + shifts)

    def add_packed(self, length: int) -> None:
        """Count compressed data, which has hardly any holes."""
        start = np.array([self._layout.data_offset])
        self._file.add(start, start + length)

    def end(self) -> int:
        """Count the refcounts, which come last, and return the bytes of all blocks that list extents."""
        if isinstance(self._layout, Layout):
            self._file.add(*refcount_parts(self._layout, self._unit))
        return self._file.list_bytes + (0 if self._data is self._file else self._data.list_bytes)


def _shifts(runs: Offsets, cluster: int, layout: AnyLayout) -> Offsets:
    """Return the distance of each run's place in the file from that in the guest: clusters are stored in order."""
    if isinstance(layout, Layout) and (layout.options.outside or layout.options.preallocated):
        return np.full(len(runs), 0 if layout.options.outside else layout.data_offset, dtype=np.int64)
    first, last = runs[:, 0] // cluster, (runs[:, 0] + runs[:, 1] - 1) // cluster
    again = np.concatenate([[0], first[1:] == last[:-1]])[: len(runs)].astype(np.int64)
    before = np.cumsum(last - first + 1 - again) - (last - first + 1)
    return np.asarray(layout.data_offset + (before - first) * cluster, dtype=np.int64)


def metadata_parts(layout: AnyLayout, extents: Extents, unit: int) -> tuple[Offsets, Offsets]:
    """Return starts and ends of what is written before the data."""
    if isinstance(layout, QedLayout):
        starts, ends = entry_ranges(extents, layout)
        return np.concatenate([[0], starts]), np.concatenate([[1], ends])
    l1_bytes = layout.l1_entries * 8
    parts = [(0, unit), (layout.l1_offset, layout.l1_offset + l1_bytes), (layout.l2_offset, layout.data_offset)]
    if layout.options.luks_bytes:
        # Only its beginning is written; if it is longer than that, its end is a hole, too.
        parts.insert(1, (layout.luks_offset, layout.luks_offset + unit))
    starts, ends = np.array([part for part in parts if part[0] < part[1]], dtype=np.int64).T
    return starts, ends


def refcount_parts(layout: Layout, unit: int) -> tuple[Offsets, Offsets]:
    """Return starts and ends of the written refcount blocks, and of the written part of their table."""
    cluster, in_block = layout.geometry.cluster_size, layout.geometry.refcounts_in_block
    last = layout.refcounted % in_block or in_block
    written = (layout.refcount_blocks - 1) * cluster + ceil_div(last * layout.geometry.refcount_bits, 8)
    starts = np.array([layout.refcount_blocks_offset, layout.refcount_table_offset])
    return starts, starts + np.array([max(written, unit), layout.refcount_blocks * 8])


def counts_lists(volume: Volume) -> bool:
    """Return whether blocks that list a file's extents count as the file's, and can be predicted."""
    return volume.filesystem == "ext4" and volume.unit <= _LARGEST_BLOCK
