"""The directory and the tables of persistent bitmaps: QEMU does not open a file in which they are invalid.

::

    directory   | 24 bytes | name | padding to 8 | 24 bytes | ...
    table       | offset of a cluster of the bitmap, or 0 (all zeros), or 1 (all ones) | ...      8 bytes each

Source: QEMU ``docs/interop/qcow2.txt``, "Bitmaps"; ``bitmap_list_load()`` and ``load_bitmap()`` in its
``block/qcow2-bitmap.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from batchdiff.qcow2.entries import OFFSET_MASK, Words
from batchdiff.qcow2.faults import require, require_opened
from batchdiff.units import MIB, align_up, ceil_div

_ENTRY = struct.Struct(">QIIBBHI")
_IN_USE, _KNOWN_FLAGS = 1 << 0, 0b11
_DIRTY_TRACKING = 1
_GRANULARITIES = range(9, 32)
_LONGEST_NAME = 1023
_MAX_BITMAP = 512 * MIB
"""QEMU's limit on a bitmap in a file, and batchdiff's on the memory that a bitmap marked "in use" needs."""

_MAX_TABLES = 64 * MIB
"""batchdiff's limit on all tables together. With QEMU's defaults, 1000 bitmaps of a 16 TiB disk have 4 MiB of
tables."""

_REMOVE = (
    "Make a copy of the image, use `qemu-img bitmap --remove COPY NAME` to remove each bitmap that `qemu-img info"
    " COPY` shows, and use the copy."
)
"""The remedy for bitmaps that QEMU accepts, but batchdiff does not."""

_RESERVED = np.uint64(0xFF000000000001FE)
_ALL_ONES = np.uint64(1)


def bitmap_tables(directory: bytes, count: int, cluster_size: int, virtual_size: int) -> list[tuple[int, int]]:
    """Return the offset and the number of entries of each bitmap's table.

    Bitmaps marked "in use" are left out: QEMU does not read their tables.

    :raises FormatError: the directory is invalid or not supported.
    """
    tables, names, found = [], set(), 0
    for name, (offset, entries, flags, kind, bits) in _entries(directory):
        found += 1
        # QEMU skips a bitmap that is marked "in use" if it has loaded another one with the same name.
        _require(flags & _IN_USE or name not in names, "two bitmaps have the same name")
        names.add(name)
        _require(kind == _DIRTY_TRACKING and not flags & ~_KNOWN_FLAGS, "a bitmap has an unknown type or flag")
        _require(bits in _GRANULARITIES, f"a bitmap has an invalid granularity of 2^{bits} bytes")
        _require(offset and offset % cluster_size == 0, "a table is at offset 0, or not aligned to a cluster")
        _require(0 < entries * cluster_size <= _MAX_BITMAP, f"a table has an invalid length ({entries} entries)")
        in_memory = ceil_div(ceil_div(virtual_size, 1 << bits), 64) * 8
        if flags & _IN_USE:
            require(in_memory <= _MAX_BITMAP, "a bitmap needs more than 512 MiB of memory", remedy=_REMOVE)
        else:
            _require(entries == ceil_div(in_memory, cluster_size), "a table does not match the size of the disk")
            tables.append((offset, entries))
    _require(found == count, f"the number of its entries is {found} instead of {count}")
    size = sum(entries for _, entries in tables) * 8
    require(size <= _MAX_TABLES, "the tables of its bitmaps take more than 64 MiB", remedy=_REMOVE)
    return tables


def _entries(directory: bytes) -> Iterator[tuple[bytes, tuple[int, int, int, int, int]]]:
    at = 0
    while at < len(directory):
        _require(at + _ENTRY.size <= len(directory), "it ends inside an entry")
        offset, entries, flags, kind, bits, name_bytes, extra = _ENTRY.unpack_from(directory, at)
        name = directory[at + _ENTRY.size : at + _ENTRY.size + name_bytes]
        at = align_up(at + _ENTRY.size + name_bytes, 8)
        _require(extra == 0, "an entry has extra data, which QEMU does not accept")
        _require(at <= len(directory), "it ends inside a name or its padding")
        _require(name_bytes <= _LONGEST_NAME, f"a name has more than {_LONGEST_NAME} bytes")
        require(b"\0" not in name, "the name of a bitmap contains a null byte", remedy=_REMOVE)
        yield name, (offset, entries, flags, kind, bits)


def check_bitmap_table(words: Words, cluster_size: int) -> None:
    """Check the entries of a bitmap's table as QEMU does.

    :raises FormatError: an entry is invalid.
    """
    hosts = words & OFFSET_MASK
    reserved = (words & _RESERVED).any() or ((hosts != 0) & (words & _ALL_ONES != 0)).any()
    require_opened(not reserved, "the table of a bitmap is broken: it has reserved bits set")
    require_opened(
        not (hosts % np.uint64(cluster_size)).any(),
        "the table of a bitmap is broken: one of its entries is not aligned to a cluster",
    )


def _require(condition: object, problem: str) -> None:
    require_opened(condition, f"its bitmap directory is broken: {problem}")
