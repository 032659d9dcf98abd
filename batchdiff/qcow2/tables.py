"""The tables of a new image, built batch by batch from its extents.

::

    extents (granules)   |DATA|....|ZERO|DATA DATA|          one batch of L2 tables
    kind of each granule  3    0 0  1    3    3
    L2 entries            host      zero host host           hosts come from the writer of the data
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind, extents_between, fold, numbers
from batchdiff.frozen import frozen
from batchdiff.qcow2.entries import COPIED, ZERO_FLAG, Words
from batchdiff.qcow2.geometry import SUBCLUSTERS, Geometry
from batchdiff.qcow2.layout import Layout
from batchdiff.units import ceil_div

_BATCH_BYTES = 1 << 20
"""Bytes of L2 tables, or of 16-bit refcounts, to build at a time."""


@frozen
class TableBatch:
    """Adjacent L2 tables of a new file. ``position``: the number of L2 tables before them."""

    position: int
    indices: npt.NDArray[np.int64]
    """The index of each table in the L1 table."""
    extents: Extents
    """In granules."""
    kinds: npt.NDArray[np.uint8]
    """The kind of each granule, table after table."""
    geometry: Geometry
    preallocated: int = 0
    """The number of the disk's clusters if all have a place for data; otherwise 0."""

    def data_clusters(self) -> npt.NDArray[np.int64]:
        """Return the guest clusters that have a place for data, ascending."""
        place = np.flatnonzero(self._has_data())
        table, entry = np.divmod(place, self.geometry.l2_entries)
        return self.indices[table] * self.geometry.l2_entries + entry

    def encoded(self, hosts: Words) -> bytes:
        """Return the tables' bytes. ``hosts``: the first word of the L2 entry of each of :meth:`data_clusters`."""
        kinds, data = self.kinds, self._has_data()
        # With extended L2, an entry has a second word for the subclusters, which is 0 for a compressed cluster.
        if not self.geometry.extended_l2:
            words = np.where(kinds == Kind.ZERO, ZERO_FLAG, np.uint64(0))
            words[data] = hosts
            return words.astype(">u8").tobytes()
        allocated, zero = (_bits(kinds == kind) for kind in (Kind.DATA, Kind.ZERO))
        pairs = np.zeros((len(data), 2), dtype=np.uint64)
        pairs[data, 0] = hosts
        pairs[:, 1] = (zero << np.uint64(32)) | np.where(_compressed(pairs[:, 0]), np.uint64(0), allocated)
        return pairs.astype(">u8").tobytes()

    def _has_data(self) -> npt.NDArray[np.bool_]:
        data: npt.NDArray[np.bool_] = (self.kinds == Kind.DATA).reshape(-1, self.geometry.granules).any(axis=1)
        if self.preallocated:
            entries = np.arange(self.geometry.l2_entries)
            data |= (self.indices[:, None] * self.geometry.l2_entries + entries < self.preallocated).reshape(-1)
        return data


def _bits(flags: npt.NDArray[np.bool_]) -> Words:
    packed = np.packbits(flags.reshape(-1, SUBCLUSTERS), axis=1, bitorder="little")
    return packed.view("<u4").reshape(-1).astype(np.uint64)


def _compressed(entries: Words) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = (entries & np.uint64(1 << 62)) != 0
    return flags


def table_batches(extents: Extents, geometry: Geometry, *, preallocated: int = 0) -> Iterator[TableBatch]:
    """Yield the L2 tables for extents (in granules), ascending.

    ``preallocated``: as in :class:`TableBatch`.
    """
    per_table = geometry.l2_entries * geometry.granules
    used = _used_tables(extents, geometry, ceil_div(preallocated, geometry.l2_entries))
    at_once = max(_BATCH_BYTES // geometry.cluster_size, 1)
    for position in range(0, len(used), at_once):
        indices = used[position : position + at_once]
        mapped = extents_between(extents, int(indices[0]) * per_table, (int(indices[-1]) + 1) * per_table)
        kinds = np.zeros(len(indices) * per_table, dtype=np.uint8)
        rows = np.searchsorted(indices, mapped.first // per_table)
        begins = (rows * per_table + mapped.first % per_table).tolist()
        # A run that crosses tables is contiguous in ``kinds`` too: all its tables are in use, hence adjacent.
        for begin, count, kind in zip(begins, mapped.count.tolist(), mapped.kind.tolist(), strict=True):
            kinds[begin : begin + count] = kind
        yield TableBatch(position, indices, mapped, kinds, geometry, preallocated)


def _used_tables(extents: Extents, geometry: Geometry, all_tables: int) -> npt.NDArray[np.int64]:
    """``all_tables``: the number of L2 tables if all are in use, otherwise 0."""
    if all_tables:
        return np.arange(all_tables, dtype=np.int64)
    return numbers(fold(extents, geometry.l2_entries * geometry.granules))


def l1_table(extents: Extents, layout: Layout) -> bytes:
    """Return the L1 table for extents (in granules)."""
    geometry = layout.geometry
    table = np.zeros(layout.l1_entries, dtype=np.uint64)
    used = _used_tables(extents, geometry, layout.l1_entries if layout.options.preallocated else 0)
    offsets = layout.l2_offset + np.arange(len(used), dtype=np.uint64) * np.uint64(geometry.cluster_size)
    table[used] = offsets | COPIED
    return table.astype(">u8").tobytes()


def refcount_table(layout: Layout) -> bytes:
    """Return the bytes of the refcount table."""
    blocks = np.arange(layout.refcount_blocks, dtype=np.uint64) * np.uint64(layout.geometry.cluster_size)
    return (blocks + np.uint64(layout.refcount_blocks_offset)).astype(">u8").tobytes()


def refcounts(layout: Layout, data: npt.NDArray[np.uint16] | None) -> Iterator[tuple[int, bytes]]:
    """Yield the file offset and bytes of each part of the file's refcounts.

    ``data``: the refcount of each data cluster; None if each is 1.
    """
    step, bits = _BATCH_BYTES // 2, layout.geometry.refcount_bits
    first_data = layout.data_offset // layout.geometry.cluster_size
    for first in range(0, layout.refcounted, step):
        counts = np.ones(min(step, layout.refcounted - first), dtype=np.uint16)
        if data is not None:
            begin, end = max(first, first_data), min(first + len(counts), first_data + len(data))
            if begin < end:
                counts[begin - first : end - first] = data[begin - first_data : end - first_data]
        yield layout.refcount_blocks_offset + first * bits // 8, _packed(counts, bits)


def _packed(counts: npt.NDArray[np.uint16], bits: int) -> bytes:
    """Pack refcounts: big-endian; within a byte, the first has the lowest bits."""
    if bits >= 8:
        return counts.astype(f">u{bits // 8}").tobytes()
    in_byte = 8 // bits
    rows = np.zeros((-(-len(counts) // in_byte), in_byte), dtype=np.uint8)
    rows.reshape(-1)[: len(counts)] = counts
    shifts = np.arange(in_byte, dtype=np.uint8) * np.uint8(bits)
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(rows << shifts, axis=1)
    return packed.tobytes()
