"""The layout and metadata of a new QED file.

::

    | header | L1 table | L2 tables ...  | data clusters ...
      1 cluster  each table: table_size clusters

Only nonzero entries are written: a whole table of 16 clusters, of 4 MiB each, would take 64 MiB. QED records
the format of the backing file only if it is raw: QEMU detects any other format.

Source: QEMU ``docs/interop/qed_spec.txt`` and ``block/qed.c``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind, count_touched, fold, numbers, only
from batchdiff.foreign.header import is_mappable
from batchdiff.foreign.qed import BACKING_FILE, BACKING_RAW, LONGEST_NAME, QED_HEADER, largest_disk
from batchdiff.frozen import frozen
from batchdiff.qcow2.faults import FormatError
from batchdiff.units import SECTOR, align_up

_ENTRY = 8
_ZEROS = 1
"""The entry of a cluster that reads as zeros."""

_Offsets = npt.NDArray[np.int64]


@frozen
class QedLayout:
    """The layout of a file.

    Sizes and offsets are in bytes, but ``table_size`` is in clusters.
    """

    virtual_size: int
    cluster_size: int
    table_size: int
    l2_tables: int
    data_clusters: int

    @property
    def table_bytes(self) -> int:
        """Bytes of a table."""
        return self.table_size * self.cluster_size

    @property
    def entries(self) -> int:
        """Entries in a table."""
        return self.table_bytes // _ENTRY

    @property
    def l1_offset(self) -> int:
        """Offset of the L1 table."""
        return self.cluster_size

    @property
    def l2_offset(self) -> int:
        """Offset of the first L2 table."""
        return self.l1_offset + self.table_bytes

    @property
    def data_offset(self) -> int:
        """Offset of the first data cluster."""
        return self.l2_offset + self.l2_tables * self.table_bytes

    @property
    def file_size(self) -> int:
        """Bytes of the file: whole clusters, because QEMU ignores an incomplete last one."""
        return self.data_offset + self.data_clusters * self.cluster_size


def fits_qed(virtual_size: int, cluster_size: int, table_size: int) -> bool:
    """Return whether QED can hold a disk, and QEMU can map it in reasonable time.

    The units are those of :class:`QedLayout`.
    """
    largest = largest_disk(cluster_size, table_size)
    return virtual_size <= largest and is_mappable(virtual_size, cluster_size)


def qed_layout(extents: Extents, virtual_size: int, cluster_size: int, table_size: int) -> QedLayout:
    """Return the layout of an image. ``extents``: DATA and ZERO, in clusters."""
    tables = count_touched(extents, cluster_size * table_size // _ENTRY)
    data = count_touched(only(extents, Kind.DATA), 1)
    return QedLayout(virtual_size, cluster_size, table_size, tables, data)


def qed_header(layout: QedLayout, backing: tuple[str, str]) -> bytes:
    """Return the header of an overlay. ``backing``: a name and a format.

    :raises FormatError: the name does not fit.
    """
    name, backing_format = backing[0].encode("utf-8", "surrogateescape"), backing[1]
    most = min(LONGEST_NAME, layout.cluster_size - QED_HEADER.size)
    if len(name) > most:
        raise FormatError(f"the template's path is {len(name)} bytes long; this QED header allows {most}")
    features = BACKING_FILE | (BACKING_RAW if backing_format == "raw" else 0)
    size = align_up(layout.virtual_size, SECTOR)
    fixed = QED_HEADER.pack(
        b"QED\0",
        layout.cluster_size,
        layout.table_size,
        1,
        features,
        0,
        0,
        layout.l1_offset,
        size,
        QED_HEADER.size,
        len(name),
    )
    return fixed + name


def qed_entries(extents: Extents, layout: QedLayout) -> Iterator[tuple[int, bytes]]:
    """Yield the nonzero L1 and L2 entries as file offsets and bytes."""
    used = numbers(fold(extents, layout.entries))
    offsets = layout.l2_offset + np.arange(len(used), dtype=np.int64) * layout.table_bytes
    for index, offset in zip(used.tolist(), offsets.tolist(), strict=True):
        yield layout.l1_offset + index * _ENTRY, offset.to_bytes(_ENTRY, "little")
    host = layout.data_offset
    for at, count, kind in _runs_in_tables(extents, layout):
        if kind == Kind.DATA:
            hosts = host + np.arange(count, dtype=np.int64) * layout.cluster_size
            host += count * layout.cluster_size
        else:
            hosts = np.full(count, _ZEROS, dtype=np.int64)
        yield at, hosts.astype("<i8").tobytes()


def entry_ranges(extents: Extents, layout: QedLayout) -> tuple[_Offsets, _Offsets]:
    """Return the starts and ends of ranges of nonzero entries in the file, ascending."""
    used = numbers(fold(extents, layout.entries))
    firsts = layout.l1_offset + used.astype(np.int64) * _ENTRY
    runs = [(at, at + count * _ENTRY) for at, count, _ in _runs_in_tables(extents, layout)]
    starts, ends = np.array(runs, dtype=np.int64).reshape(-1, 2).T
    return np.concatenate([firsts, starts]), np.concatenate([firsts + _ENTRY, ends])


def _runs_in_tables(extents: Extents, layout: QedLayout) -> Iterator[tuple[int, int, int]]:
    """Yield the offset, number and kind of the entries of each run, cut at the edges of tables."""
    used = numbers(fold(extents, layout.entries))
    for first, last, kind in zip(extents.first.tolist(), extents.end.tolist(), extents.kind.tolist(), strict=True):
        at = first
        while at < last:
            table, within = divmod(at, layout.entries)
            stop = min(last, at + layout.entries - within)
            position = int(np.searchsorted(used, table))
            yield layout.l2_offset + position * layout.table_bytes + within * _ENTRY, stop - at, kind
            at = stop
