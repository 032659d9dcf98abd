"""VMware's VMDK in one compressed file (streamOptimized), inspected before QEMU decompresses it.

::

    | header | descriptor | marker, grain | marker, grain ... marker, table ... marker, directory | footer | end |

    header    says that the directory is "at the end"
    footer    a second header, used instead

Source: QEMU ``block/vmdk.c`` (``vmdk_open_vmdk4``, ``vmdk_read_extent``); VMware, "Virtual Disk Format 5.0",
"Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import struct

import numpy as np

from batchdiff.foreign.header import ReadAt, exactly, require_mappable
from batchdiff.foreign.vmdk import (
    AT_END,
    DIRECTORY_OUTSIDE,
    INVALID_SIZES,
    MOST_SECTORS,
    NO_DESCRIPTOR,
    NO_SIGNATURE,
    SPARSE_HEADER,
    TEXT_AT,
    TEXT_BYTES,
    inspect_descriptor,
)
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, WRONG_FORMAT, require
from batchdiff.units import KIB, SECTOR, align_up, ceil_div

_DEFLATE = 1
_MARKER = struct.Struct("<QII")
_FOOTER, _END_OF_STREAM = 3, 0
_LARGEST_GRAIN = 1024 * KIB // SECTOR
"""In sectors. During a read, QEMU allocates memory for three grains."""
_LEAST_STORED = 12
"""The bytes of a grain's marker; its data follows."""


def is_stream_optimized(read: ReadAt) -> bool:
    """Return whether a file starts with the header of a compressed VMDK image."""
    head = read(0, SPARSE_HEADER.size)
    return (
        len(head) == SPARSE_HEADER.size and head.startswith(b"KDMV") and SPARSE_HEADER.unpack(head)[-1] == _DEFLATE
    )


def inspect_vmdk_stream(read: ReadAt, file_size: int) -> None:
    """Inspect the metadata of a compressed VMDK image.

    :raises FormatError: the image cannot be used.
    """
    first = SPARSE_HEADER.unpack(exactly(read, 0, SPARSE_HEADER.size, "header"))
    mark, _, _, capacity, _, text_at, text_size, *_, compression = first
    require(mark == b"KDMV", NO_SIGNATURE, remedy=WRONG_FORMAT)
    require(
        compression == _DEFLATE,
        f"its compression method {compression} is unknown (1 is known)",
        remedy=CONVERT_ELSEWHERE,
    )
    # If the capacity is 0, QEMU would treat the file as a text descriptor, and open the extents that it names.
    require(capacity > 0, "its size is 0")
    require(
        text_at * SECTOR == TEXT_AT and 0 < text_size * SECTOR <= TEXT_BYTES,
        NO_DESCRIPTOR,
    )
    exactly(read, TEXT_AT, text_size * SECTOR, "descriptor")
    inspect_descriptor(read(TEXT_AT, TEXT_BYTES), "streamoptimized")
    fields = _footer(read, file_size) if first[9] == AT_END else first
    require(fields[3] == capacity, "its header and its footer give different sizes")
    _inspect_tables(read, file_size, fields)


def _footer(read: ReadAt, file_size: int) -> tuple[int, ...]:
    """Return the footer, which takes precedence over the header."""
    # QEMU rounds the file's size up to whole sectors; the footer precedes the last sector.
    tail = exactly(read, max(align_up(file_size, SECTOR) - 3 * SECTOR, 0), 2 * SECTOR, "footer")
    end = read(align_up(file_size, SECTOR) - SECTOR, SECTOR).ljust(SECTOR, b"\0")
    marks = [_MARKER.unpack_from(tail)[1:], _MARKER.unpack_from(end)]
    is_marked = marks == [(0, _FOOTER), (0, 0, _END_OF_STREAM)] and tail[SECTOR : SECTOR + 4] == b"KDMV"
    require(is_marked, "it is truncated: its footer is missing")
    fields = SPARSE_HEADER.unpack_from(tail, SECTOR)
    require(fields[-1] == _DEFLATE, "its header and its footer give different compression methods")
    return fields


def _inspect_tables(read: ReadAt, file_size: int, fields: tuple[int, ...]) -> None:
    _, version, _, capacity, grain, _, _, entries, _, directory, data_at, *_ = fields
    require(version <= 3, f"VMDK version {version} is unknown (1 to 3 are known)", remedy=CONVERT_ELSEWHERE)
    require(
        8 <= grain <= _LARGEST_GRAIN and grain & (grain - 1) == 0 and 0 < entries <= 512,
        INVALID_SIZES,
    )
    require(capacity <= MOST_SECTORS, f"its size of {capacity} sectors exceeds 64 TiB")
    require_mappable(capacity, grain)
    require(data_at * SECTOR <= file_size, "it is truncated: its first grain is missing")
    count = ceil_div(capacity, grain * entries)
    require(directory * SECTOR + count * 4 <= file_size, DIRECTORY_OUTSIDE)
    tables = np.frombuffer(exactly(read, directory * SECTOR, count * 4, "grain directory"), dtype="<u4")
    tables = np.sort(tables[tables != 0]).astype(np.int64) * SECTOR
    length = entries * 4
    is_apart = (tables[1:] - tables[:-1] >= length).all() and (tables[-1:] + length <= file_size).all()
    require(bool(is_apart), "its grain tables overlap, or are outside the file")
    found = [exactly(read, place, length, "grain table") for place in tables.tolist()]
    grains = np.sort(np.frombuffer(b"".join(found), dtype="<u4"))
    # 0: not allocated; 1: zeros, if a flag allows it.
    grains = grains[grains > 1].astype(np.int64) * SECTOR
    require(bool((grains[-1:] + _LEAST_STORED < file_size).all()), "a grain lies past the end of the file")
    # Without this check, a small file could unpack to any size. Deflate itself expands data at most 1,032-fold.
    require(bool((grains[1:] != grains[:-1]).all()), "one grain is used for several parts of the disk")
