"""Checks of the snapshots and bitmaps in a qcow2 file, as far as QEMU reads them when it opens the file.

Their content is never needed, but no VM and no overlay can use a file that QEMU refuses because of them.
"""

from __future__ import annotations

from batchdiff.image.files import ImageFile
from batchdiff.image.qcow2_tables import read_words
from batchdiff.qcow2.bitmaps import bitmap_tables, check_bitmap_table
from batchdiff.qcow2.faults import require
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.snapshots import snapshot_tables


def check_extras(file: ImageFile, header: Header) -> None:
    """Check the snapshot table and the bitmaps of an open qcow2 file.

    :raises FormatError: QEMU would refuse one of them, or a table is outside the file or overlaps another.
    :raises ImageError: they cannot be read.
    """
    if header.snapshots:
        _check_snapshots(file, header)
    if header.bitmaps:
        offset, length = header.bitmap_directory
        directory = file.read_exactly(length, offset)
        cluster = header.geometry.cluster_size
        for table, count in bitmap_tables(directory, header.bitmaps, cluster, header.virtual_size):
            _require_inside(table + count * 8, file.size, "a bitmap's table")
            check_bitmap_table(read_words(file, table, count), cluster)


def _check_snapshots(file: ImageFile, header: Header) -> None:
    def read(offset: int, length: int) -> bytes:
        return file.read_exactly(length, offset)

    end, found = snapshot_tables(read, header.snapshots_offset, header.snapshots)
    _require_inside(end, file.size, "its snapshot table")
    others = header.tables()
    for start, length in found:
        _require_inside(start + length, file.size, "a snapshot's L1 table")
        for offset, other, name in others:
            # QEMU detects such an overlap when it writes to the image, as it does when it opens one with bitmaps.
            require(
                length == 0 or start + length <= offset or offset + other <= start,
                f"a snapshot's L1 table lies on the {name}",
            )


def _require_inside(end: int, size: int, what: str) -> None:
    require(end <= size, f"{what} ends past the end of the file ({size} bytes): it is truncated or damaged")
