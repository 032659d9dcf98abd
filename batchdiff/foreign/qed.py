"""QEMU's former format QED: a header, and tables in two levels.

Source: QEMU ``docs/interop/qed_spec.txt`` and ``block/qed.c``.
"""

from __future__ import annotations

import struct

from batchdiff.foreign.header import ReadAt, exactly, require_mappable
from batchdiff.qcow2.faults import require

_HEADER = struct.Struct("<4sIIIQQQQQII")
_BACKING_FILE, _NEED_CHECK, _BACKING_RAW = 1, 2, 4
_LARGEST_CLUSTER, _LARGEST_TABLE = 64 << 20, 16


def inspect_qed(read: ReadAt, file_size: int) -> int:
    """Inspect the header of a QED image; return the number of its clusters.

    :raises FormatError: it is not one, is damaged, was not closed cleanly, or has a backing file.
    """
    fields = _HEADER.unpack(exactly(read, 0, _HEADER.size, "header"))
    mark, cluster, table, _, features, _, _, tables_at, size, _, _ = fields
    require(mark == b"QED\0", "it is not a QED image: its signature is missing")
    known = _BACKING_FILE | _NEED_CHECK | _BACKING_RAW
    require(not features & ~known, f"it needs unknown features (bits {features & ~known:#x})")
    require(not features & _NEED_CHECK, "it was not closed cleanly; run `qemu-img check -r all` on a copy of it")
    require(not features & _BACKING_FILE, "it has a backing file, which is not supported for QED")
    require(
        4096 <= cluster <= _LARGEST_CLUSTER and cluster & (cluster - 1) == 0,
        f"clusters of {cluster} bytes are invalid",
    )
    require(1 <= table <= _LARGEST_TABLE and table & (table - 1) == 0, f"tables of {table} clusters are invalid")
    require(size % 512 == 0 and size <= (cluster * table // 8) ** 2 * cluster, f"its size {size} is invalid")
    count = require_mappable(size, cluster)
    require(
        tables_at % cluster == 0 and tables_at + cluster * table <= file_size, "its L1 table is outside the file"
    )
    return count
