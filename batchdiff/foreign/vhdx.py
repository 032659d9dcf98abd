"""Microsoft's VHDX: two headers, tables of regions and of metadata, and a table of blocks (BAT).

::

    0        64K        128K       192K, 256K        1M
    | mark   | header 1 | header 2 | region tables   | log, BAT, metadata and blocks, each in whole MiB ...

Between two "chunks" of blocks, the BAT has an entry for a sector bitmap, which only differencing images use.
QEMU does not report block status for this format, but reads the blocks as this module maps them.

Source: Microsoft, [MS-VHDX]; QEMU ``block/vhdx.c`` (``vhdx_parse_header``, ``vhdx_open_region_tables``,
``vhdx_parse_metadata``, ``vhdx_co_readv``).
"""

from __future__ import annotations

import itertools
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.foreign.crc32c import vhdx_checksum
from batchdiff.foreign.header import COPY, Outline, ReadAt, exactly, require_mappable
from batchdiff.foreign.vdi import DIFFERENCE, MERGE
from batchdiff.foreign.vhdx_log import has_valid_entry
from batchdiff.foreign.vhdx_parent import MARK, METADATA, MOST_ENTRIES, PARENT_LOCATOR
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, WRONG_FORMAT, FormatError, require
from batchdiff.units import KIB, MIB, SECTOR, TIB, ceil_div, format_size

_HEADERS_AT, _HEADER_BYTES = (64 * KIB, 128 * KIB), 4 * KIB
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGIONS_AT, _TABLE_BYTES = 192 * KIB, 64 * KIB
_REGIONS, _REGION = struct.Struct("<4sII4x"), struct.Struct("<16sQII")
_METADATA, _ITEM = struct.Struct("<8s2xH20x"), struct.Struct("<16sIII4x")
_BAT = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_REGION_NAMES = {_BAT: "block table", METADATA: "metadata"}
_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_SECTOR_SIZE = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")
_KNOWN = {
    _PARAMETERS: 8,
    _SIZE: 8,
    _SECTOR_SIZE: 4,
    bytes.fromhex("c748a3cd5d4471449cc9e9885251c556"): 4,  # physical sector size
    bytes.fromhex("ab12cabee6b2234593efc309e000c746"): 16,  # SCSI page 83
}
"""Lengths of metadata items in bytes, by GUID as stored."""
_CHUNK = (1 << 23) * SECTOR
"""Bytes of the disk per sector bitmap."""
_REQUIRED_REGION, _REQUIRED_ITEM, _HAS_PARENT = 1, 4, 2

_NOT_PRESENT = (0, 1, 2, 3, 5)
"""States that QEMU reads as zeros: not present, undefined, zero, unmapped (3, or 5 in version 0.95 of the
specification)."""
_PRESENT, _PARTIAL = 6, 7
_ENTRY_BYTES = 8
_MOST_SPARE = 64 * MIB
"""The maximum number of bytes in a BAT beyond what the disk needs.

Programs only round its size up to whole MiB.
"""
_AT_ONCE = 1 << 20
"""In entries of the BAT."""
_MOST_RUNS = 2_000_000

_UNCLEAN = "it is in use, or was not closed cleanly: its log may have changes that are not in its tables yet"
_REPLAY = (
    "Shut its VM down cleanly; if the VM is not running, start it first. Or replay the log on a copy, with"
    " `qemu-img check -r all -f vhdx COPY`, and use the copy in the manifest."
)

_Offsets = npt.NDArray[np.int64]


class DiskMap(NamedTuple):
    """A disk's size and runs of data, ascending, in bytes; ``offsets``: in the file."""

    size: int
    starts: _Offsets
    ends: _Offsets
    offsets: _Offsets


class _Place(NamedTuple):
    name: str
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class _Disk(NamedTuple):
    size: int
    block: int
    chunk: int
    """In blocks."""
    table_at: int
    others: tuple[_Place, ...]
    """No block may overlap these."""

    @property
    def blocks(self) -> int:
        return ceil_div(self.size, self.block)

    @property
    def entries(self) -> int:
        return self.blocks + (self.blocks - 1) // self.chunk


def inspect_vhdx(read: ReadAt, file_size: int) -> Outline:
    """Inspect the metadata of a VHDX image, except its BAT entries; return how many of these the disk needs.

    :raises FormatError: the image cannot be used.
    """
    # QEMU does not map block by block, but keeps the whole BAT in memory, so an image with a large BAT must take
    # that much space on disk, too.
    return Outline(_inspected(read, file_size).entries, bytes_each=_ENTRY_BYTES)


def map_vhdx(read: ReadAt, file_size: int) -> DiskMap:
    """Return the disk's size, and the places of its blocks in the file.

    :raises FormatError: the image cannot be used.
    """
    disk = _inspected(read, file_size)
    found: list[npt.NDArray[np.int64]] = []
    count = 0
    for first in range(0, disk.entries, _AT_ONCE):
        number = min(_AT_ONCE, disk.entries - first)
        table = exactly(read, disk.table_at + first * _ENTRY_BYTES, number * _ENTRY_BYTES, "block table")
        found.append(_runs(disk, first, np.frombuffer(table, dtype="<u8")))
        count += found[-1].shape[1]
        require(count <= _MOST_RUNS, f"its data is in more than {_MOST_RUNS} places in the file", remedy=COPY)
    starts, ends, offsets = _joined(np.concatenate(found, axis=1))
    _check_places(disk, file_size, offsets, offsets + ends - starts)
    return DiskMap(disk.size, starts, ends, offsets)


def _inspected(read: ReadAt, file_size: int) -> _Disk:
    require(read(0, 8) == MARK, "it is not a VHDX image: its signature is missing", remedy=WRONG_FORMAT)
    log = _log(read, file_size)
    regions = _regions(read, file_size)
    table = regions[_BAT]
    places = (_Place("header", 0, MIB), *regions.values(), log)
    for one, other in itertools.pairwise(sorted(places, key=lambda each: (each.start, each.length))):
        require(one.end <= other.start, f"its {other.name} and its {one.name} overlap")
    size, block = _parameters(read, regions[METADATA])
    disk = _Disk(size, block, _CHUNK // block, table.start, places)
    require_mappable(size, block)
    needed = disk.entries * _ENTRY_BYTES
    require(needed <= table.length, f"its block table of {table.length} bytes is too short for all blocks")
    # QEMU reads the whole table, however few blocks the disk has.
    is_usual = table.length - needed <= _MOST_SPARE
    too_long = f"its block table of {table.length} bytes is too long for its disk, which needs {needed}"
    require(is_usual, too_long, remedy=COPY)
    return disk


def _log(read: ReadAt, file_size: int) -> _Place:
    headers = [exactly(read, at, _HEADER_BYTES, "header") for at in _HEADERS_AT]
    valid = [head for head in headers if _is_header(head)]
    require(bool(valid), "it is damaged: neither of its headers is valid")
    fields = [_HEADER.unpack_from(head) for head in valid]
    # Disk2vhd writes two headers that are equal, sequence numbers included.
    is_clear = len(valid) == 1 or fields[0][2] != fields[1][2] or valid[0] == valid[1]
    require(is_clear, "it is damaged: its headers differ, and neither is the newer one")
    current = max(fields, key=lambda each: each[2])
    *_, guid, log_version, _, length, offset = current
    require(
        log_version == 0, f"version {log_version} of its log is unknown (0 is known)", remedy=CONVERT_ELSEWHERE
    )
    require(offset % MIB == 0 and length % MIB == 0, "its log is not aligned to 1 MiB")
    require(offset > 0, "its log and its header overlap")  # QEMU refuses this even if the log is empty
    require(offset + length <= file_size, "its log ends past the end of the file")
    is_clean = guid == bytes(16) or not has_valid_entry(read, offset, length, guid)
    require(is_clean, _UNCLEAN, remedy=_REPLAY)
    return _Place("log", offset, length)


def _is_header(head: bytes) -> bool:
    signature, checksum, _, _, _, _, _, version, *_ = _HEADER.unpack_from(head)
    return bool(signature == b"head" and version == 1 and checksum == vhdx_checksum(head))


def _regions(read: ReadAt, file_size: int) -> dict[bytes, _Place]:
    table = exactly(read, _REGIONS_AT, _TABLE_BYTES, "region table")
    signature, checksum, count = _REGIONS.unpack_from(table)
    is_valid = signature == b"regi" and count <= MOST_ENTRIES and checksum == vhdx_checksum(table)
    require(is_valid, "it is damaged: its region table is not valid")
    found: dict[bytes, _Place] = {}
    for number in range(count):
        kind, offset, length, flags = _REGION.unpack_from(table, _REGIONS.size + number * _REGION.size)
        name = _REGION_NAMES.get(kind, f"region {kind.hex()}")
        is_known = kind in _REGION_NAMES or not flags & _REQUIRED_REGION
        require(is_known, f"it needs an unknown region ({kind.hex()})", remedy=CONVERT_ELSEWHERE)
        require(kind not in found, f"its {name} occurs twice")
        require(
            offset % MIB == 0 and length % MIB == 0 and length > 0,
            f"its {name} is empty, or does not start and end at a MiB boundary",
        )
        require(offset + length <= file_size, f"its {name} ends past the end of the file")
        found[kind] = _Place(name, offset, length)
    require(_REGION_NAMES.keys() <= found.keys(), "it is damaged: it has no block table, or no metadata")
    return found


def _parameters(read: ReadAt, region: _Place) -> tuple[int, int]:
    table = exactly(read, region.start, _TABLE_BYTES, "metadata")
    signature, count = _METADATA.unpack_from(table)
    require(signature == b"metadata" and count <= MOST_ENTRIES, "it is damaged: its metadata is not valid")
    found: dict[bytes, bytes] = {}
    for number in range(count):
        kind, offset, length, flags = _ITEM.unpack_from(table, _METADATA.size + number * _ITEM.size)
        require(kind != PARENT_LOCATOR, DIFFERENCE, remedy=MERGE)
        if kind not in _KNOWN:
            require(
                not flags & _REQUIRED_ITEM, f"it needs unknown metadata ({kind.hex()})", remedy=CONVERT_ELSEWHERE
            )
            continue
        is_valid = offset >= _TABLE_BYTES and offset + length <= region.length and length == _KNOWN[kind]
        require(is_valid and kind not in found, "it is damaged: an item of its metadata is not valid")
        found[kind] = exactly(read, region.start + offset, length, "metadata")
    require(found.keys() == _KNOWN.keys(), "it is damaged: an item of its metadata is missing")
    block, flags = struct.unpack("<II", found[_PARAMETERS])
    require(not flags & _HAS_PARENT, DIFFERENCE, remedy=MERGE)
    (size,), (sector,) = struct.unpack("<Q", found[_SIZE]), struct.unpack("<I", found[_SECTOR_SIZE])
    require(MIB <= block <= 256 * MIB and block & (block - 1) == 0, f"a block size of {block} B is invalid")
    require(
        sector == SECTOR,
        f"its logical sector size is {sector} B; QEMU supports only {SECTOR} B",
        remedy=CONVERT_ELSEWHERE,
    )
    require(size > 0, "its size is 0")
    require(size <= 64 * TIB, f"its size of {size} bytes exceeds 64 TiB")
    require(size % SECTOR == 0, f"its size of {size} B is not a whole number of sectors")
    return size, block


def _runs(disk: _Disk, first: int, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return rows of starts, ends and offsets; ``first``: the number of the first entry."""
    number = first + np.arange(len(entries), dtype=np.int64)
    is_block = number % (disk.chunk + 1) != disk.chunk
    entries, number = entries[is_block], number[is_block]
    state = (entries & np.uint64(7)).astype(np.uint8)
    require(not (state == _PARTIAL).any(), DIFFERENCE, remedy=MERGE)
    is_present = state == _PRESENT
    require(bool((is_present | np.isin(state, _NOT_PRESENT)).all()), "a block has an unknown state")
    number, offsets = number[is_present], (entries[is_present] & np.uint64(~0xFFFFF & (1 << 64) - 1))
    require(not (offsets >> np.uint64(62)).any(), "a block lies past the end of the file")
    starts = (number - number // (disk.chunk + 1)) * disk.block
    ends = np.minimum(starts + disk.block, disk.size)
    return _joined(np.stack([starts, ends, offsets.astype(np.int64)]))


def _joined(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    starts, ends, offsets = runs
    if not len(starts):
        return runs
    joins = (starts[1:] == ends[:-1]) & (offsets[1:] - offsets[:-1] == starts[1:] - starts[:-1])
    first, last = np.concatenate([[True], ~joins]), np.concatenate([~joins, [True]])
    return np.stack([starts[first], ends[last], offsets[first]])


def _check_places(disk: _Disk, file_size: int, offsets: _Offsets, stops: _Offsets) -> None:
    if (stops > file_size).any():
        raise FormatError(f"a block lies past the end of the file ({file_size} B), which is truncated or damaged")
    for place in disk.others:
        overlaps = (offsets < place.end) & (stops > place.start)
        if overlaps.any():
            at = int(offsets[overlaps][0])
            raise FormatError(f"a block at {format_size(at)} in the file overlaps its {place.name}")
