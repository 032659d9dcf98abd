"""The table of internal snapshots.

::

    | 40 bytes | extra data | id | name | padding to 8 | 40 bytes | ...

Source: QEMU ``docs/interop/qcow2.txt``, "Snapshots"; ``qcow2_do_read_snapshots()`` in its
``block/qcow2-snapshot.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from batchdiff.qcow2.faults import require
from batchdiff.units import MIB, align_up

_ENTRY = struct.Struct(">QIHHIIQII")
_MAX_EXTRA, _MAX_TABLE = 1024, 64 * MIB

_REPAIR = (
    "Repair a copy of it with `qemu-img check -r all`, which shortens the table and may discard snapshots;"
    " then use the copy."
)


def snapshot_tables(
    read: Callable[[int, int], bytes], offset: int, count: int
) -> tuple[int, list[tuple[int, int]]]:
    """Return the file offset of the table's end, and the offset and length of each snapshot's L1 table, in bytes.

    ``read`` takes offset and length.

    :raises FormatError: the extra data of an entry, or the table, is too long.
    """
    at, tables = offset, []
    for number in range(count):
        at = align_up(at, 8)
        l1_offset, l1_entries, id_bytes, name_bytes, *_, extra = _ENTRY.unpack(read(at, _ENTRY.size))
        require(
            extra <= _MAX_EXTRA,
            f"entry {number} of its snapshot table has {extra} bytes of extra data, more than QEMU's limit of"
            f" {_MAX_EXTRA}",
            remedy=_REPAIR,
        )
        at += _ENTRY.size + extra + id_bytes + name_bytes
        require(at - offset <= _MAX_TABLE, "its snapshot table exceeds QEMU's limit of 64 MiB", remedy=_REPAIR)
        tables.append((l1_offset, l1_entries * 8))
    return at, tables
