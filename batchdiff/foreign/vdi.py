"""VirtualBox's VDI: a header and a map of blocks of 1 MiB.

Source: QEMU ``block/vdi.c`` (struct VdiHeader).
"""

from __future__ import annotations

import struct

from batchdiff.foreign.header import Outline, ReadAt, exactly, require_mappable
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, WRONG_FORMAT, require
from batchdiff.units import MIB, SECTOR

_HEADER = struct.Struct("<64x II4xI4x256xI4x12xI4xQIII4x32x16s16s")
_SIGNATURE, _VERSION = 0xBEDA107F, 0x00010001
_DYNAMIC, _FIXED, _DIFFERENCING = 1, 2, 4
_MOST_BLOCKS = 0x1FFFFFFF
_NO_UUID = bytes(16)

DIFFERENCE = "it holds only the differences from a parent image"
MERGE = "First merge it and its parent, with the program that created them."


def inspect_vdi(read: ReadAt, file_size: int) -> Outline:
    """Inspect the header of a VDI image, whose clusters are its blocks of 1 MiB.

    :raises FormatError: the image cannot be used.
    """
    fields = _HEADER.unpack(exactly(read, 0, _HEADER.size, "header"))
    signature, version, kind, map_at, sector, size, block, extra, blocks, link, parent = fields
    require(signature == _SIGNATURE, "it is not a VDI image: its signature is missing", remedy=WRONG_FORMAT)
    require(
        version == _VERSION,
        f"VDI version {version >> 16}.{version & 0xFFFF} is unknown (1.1 is known)",
        remedy=CONVERT_ELSEWHERE,
    )
    # A differencing image names its parent by UUID only, so it cannot make QEMU open another file.
    require(kind != _DIFFERENCING and link == parent == _NO_UUID, DIFFERENCE, remedy=MERGE)
    require(
        kind in {_DYNAMIC, _FIXED},
        f"its type {kind} is unknown (1 for dynamic and 2 for fixed are known)",
        remedy=CONVERT_ELSEWHERE,
    )
    require(
        sector == SECTOR and block == MIB and extra == 0,
        "its sectors are not 512 bytes, its blocks are not 1 MiB, or its blocks have extra data",
        remedy=CONVERT_ELSEWHERE,
    )
    require(
        blocks <= _MOST_BLOCKS and size <= blocks * MIB,
        f"the number of its blocks, {blocks}, is invalid for a disk of {size} B",
    )
    count = require_mappable(size, MIB)
    require(map_at % SECTOR == 0, f"its block map at {map_at} is not aligned to a sector")
    require(map_at + blocks * 4 <= file_size, "its block map ends past the end of the file")
    return Outline(count)
