"""Checks of the snapshots and bitmaps in a qcow2 file, as far as QEMU reads them when it opens the file.

Their content is never needed, but no VM and no overlay can use a file that QEMU refuses because of them.
"""

from __future__ import annotations

from batchdiff.image.files import ImageFile
from batchdiff.image.qcow2_tables import read_words
from batchdiff.qcow2.bitmaps import bitmap_tables, check_bitmap_table
from batchdiff.qcow2.faults import require
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.references import SNAPSHOT_TABLE, Table, require_apart, table_at
from batchdiff.qcow2.snapshots import snapshot_tables


def check_extras(file: ImageFile, header: Header, metadata: list[Table]) -> list[Table]:
    """Check the snapshot table and the bitmaps of an open qcow2 file; return all metadata, with their tables.

    :raises FormatError: QEMU would refuse one of them, or a table is outside the file or overlaps another.
    :raises ImageError: they cannot be read.
    """
    found = list(metadata)
    if header.snapshots:
        found = [table for table in found if table.name != SNAPSHOT_TABLE] + _snapshots(file, header)
    if header.bitmaps:
        offset, length = header.bitmap_directory
        directory = file.read_exactly(length, offset)
        cluster = header.geometry.cluster_size
        for table, count in bitmap_tables(directory, header.bitmaps, cluster, header.virtual_size):
            _require_inside(table + count * 8, file.size, "a bitmap's table")
            check_bitmap_table(read_words(file, table, count), cluster)
            found.append(table_at(table, count * 8, "a bitmap's table"))
    # QEMU detects an overlap when it writes to the image, as it does when it opens one with bitmaps.
    require_apart(found, header.geometry.cluster_size)
    return found


def _snapshots(file: ImageFile, header: Header) -> list[Table]:
    def read(offset: int, length: int) -> bytes:
        return file.read_exactly(length, offset)

    end, tables = snapshot_tables(read, header.snapshots_offset, header.snapshots)
    _require_inside(end, file.size, "its snapshot table")
    found = [table_at(header.snapshots_offset, end - header.snapshots_offset, SNAPSHOT_TABLE)]
    for start, length in tables:
        _require_inside(start + length, file.size, "a snapshot's L1 table")
        require(
            start % header.geometry.cluster_size == 0,
            f"a snapshot's L1 table at {start} is not aligned to a cluster",
        )
        if length:
            found.append(table_at(start, length, "a snapshot's L1 table"))
    return found


def _require_inside(end: int, size: int, what: str) -> None:
    require(end <= size, f"{what} ends past the end of the file ({size} bytes): it is truncated or damaged")
