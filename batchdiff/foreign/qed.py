"""QEMU's former format QED: a header, and tables in two levels.

Source: QEMU ``docs/interop/qed_spec.txt`` and ``block/qed.c``.
"""

from __future__ import annotations

import struct

from batchdiff.foreign.header import NamedFile, Outline, ReadAt, exactly, require_mappable
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, SHUT_DOWN_OR_REPAIR, WRONG_FORMAT, require

QED_HEADER = struct.Struct("<4sIIIQQQQQII")
BACKING_FILE, _NEED_CHECK, BACKING_RAW = 1, 2, 4
_LARGEST_CLUSTER, _LARGEST_TABLE, LONGEST_NAME = 64 << 20, 16, 1023


def largest_disk(cluster_size: int, table_size: int) -> int:
    """Return the size of the largest disk in bytes, modulo 2^64 as in QEMU, so the result can be 0.

    ``table_size``: in clusters.
    """
    entries = cluster_size * table_size // 8
    return entries * entries * cluster_size % (1 << 64)


def inspect_qed(read: ReadAt, file_size: int) -> Outline:
    """Inspect the header of an image.

    :raises FormatError: the image cannot be used.
    """
    fields = QED_HEADER.unpack(exactly(read, 0, QED_HEADER.size, "header"))
    mark, cluster, table, _, features, _, _, tables_at, size, _, _ = fields
    require(mark == b"QED\0", "it is not a QED image: its signature is missing", remedy=WRONG_FORMAT)
    known = BACKING_FILE | _NEED_CHECK | BACKING_RAW
    require(
        not features & ~known, f"it needs unknown features (bits {features & ~known:#x})", remedy=CONVERT_ELSEWHERE
    )
    require(
        not features & _NEED_CHECK,
        "it is marked for a check: it is in use, or was not closed cleanly",
        remedy=SHUT_DOWN_OR_REPAIR,
    )
    require(
        4096 <= cluster <= _LARGEST_CLUSTER and cluster & (cluster - 1) == 0,
        f"a cluster size of {cluster} B is invalid",
    )
    is_valid = 1 <= table <= _LARGEST_TABLE and table & (table - 1) == 0
    require(is_valid, f"a table size of {table} clusters is invalid")
    require(size % 512 == 0 and size <= (cluster * table // 8) ** 2 * cluster, f"its size {size} is invalid")
    count = require_mappable(size, cluster)
    require(tables_at % cluster == 0, f"its L1 table at {tables_at} is not aligned to a cluster")
    require(tables_at + cluster * table <= file_size, "its L1 table is outside the file")
    has_name = bool(features & BACKING_FILE)
    return Outline(count, _backing_file(read, file_size, fields) if has_name else None)


def _backing_file(read: ReadAt, file_size: int, fields: tuple[int, ...]) -> NamedFile:
    cluster, header, features, name_at, name_size = fields[1], fields[3], fields[4], *fields[9:]
    require(header * cluster <= file_size, "its header ends past the end of the file")
    require(name_at + name_size <= header * cluster, "the name of its backing file does not fit into the header")
    require(
        name_size <= LONGEST_NAME,
        f"the name of its backing file has {name_size} bytes, more than the limit of {LONGEST_NAME}",
    )
    name = exactly(read, name_at, name_size, "backing file name").split(b"\0", 1)[0]
    require(bool(name), "its backing file name is empty")
    return name.decode("utf-8", "surrogateescape"), "raw" if features & BACKING_RAW else None
