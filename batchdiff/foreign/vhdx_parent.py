"""The GUID of a VHDX image, and the GUIDs by which it names its parent.

::

    header      the image's own GUID: the one that changes when the data does
    metadata    parent locator: keys and values, among them parent_linkage = {GUID of the parent's header}

Nothing else is parsed, so even a damaged image can yield these GUIDs.

Source: Microsoft, [MS-VHDX], 2.2.2 and 2.6.2.6.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from batchdiff.foreign.header import ReadAt
from batchdiff.units import KIB

MARK = b"vhdxfile"

_HEADERS_AT, _HEADER = (64 * KIB, 128 * KIB), struct.Struct("<4s4xQ16x16s")
_REGIONS_AT, _TABLE_BYTES = (192 * KIB, 256 * KIB), 64 * KIB
_REGION, _ITEM, _KEY = struct.Struct("<16sQII"), struct.Struct("<16sII"), struct.Struct("<IIHH")
METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
PARENT_LOCATOR = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
"""GUIDs as stored."""
MOST_ENTRIES = 2047
"""In a region table or a metadata table."""
_LINKS = ("parent_linkage", "parent_linkage2")
_GUID = re.compile(r"\{?(\w{8})-(\w{4})-(\w{4})-(\w{4})-(\w{12})\}?", re.ASCII)


def own_guid(read: ReadAt) -> bytes:
    """Return the GUID by which differencing images name this one; empty if it has none."""
    found = [_HEADER.unpack(head) for at in _HEADERS_AT if len(head := read(at, _HEADER.size)) == _HEADER.size]
    return max(((number, guid) for signature, number, guid in found if signature == b"head"), default=(0, b""))[1]


def parent_guids(read: ReadAt) -> list[bytes]:
    """Return the GUIDs by which an image names its parent, in the form of :func:`own_guid`."""
    found = {guid: None for at in _REGIONS_AT for place in _metadata_at(read, at) for guid in _linked(read, place)}
    return list(found)


def _metadata_at(read: ReadAt, at: int) -> Iterator[int]:
    table = read(at, _TABLE_BYTES)
    count = min(int.from_bytes(table[8:12], "little"), MOST_ENTRIES)
    for number in range(count if table.startswith(b"regi") else 0):
        entry = table[16 + number * _REGION.size :][: _REGION.size]
        if len(entry) == _REGION.size and entry.startswith(METADATA):
            place = _REGION.unpack(entry)[1]
            if place < 1 << 62:
                yield place


def _linked(read: ReadAt, place: int) -> Iterator[bytes]:
    table = read(place, _TABLE_BYTES)
    count = min(int.from_bytes(table[10:12], "little"), MOST_ENTRIES)
    for number in range(count if table.startswith(b"metadata") else 0):
        entry = table[32 + number * 32 :][: _ITEM.size]
        if len(entry) == _ITEM.size and entry.startswith(PARENT_LOCATOR):
            _, offset, length = _ITEM.unpack(entry)
            yield from _in_locator(read(place + offset, min(length, _TABLE_BYTES)))


def _in_locator(data: bytes) -> Iterator[bytes]:
    for number in range(int.from_bytes(data[18:20], "little")):
        entry = data[20 + number * _KEY.size :][: _KEY.size]
        if len(entry) < _KEY.size:
            return
        key_at, value_at, key_length, value_length = _KEY.unpack(entry)
        key = data[key_at : key_at + key_length].decode("utf-16-le", "replace")
        match = _GUID.fullmatch(data[value_at : value_at + value_length].decode("utf-16-le", "replace"))
        if key in _LINKS and match is not None:
            yield from _stored(match)


def _stored(match: re.Match[str]) -> Iterator[bytes]:
    """Yield a GUID as stored, with the first three numbers little-endian; nothing if it is not hexadecimal."""
    try:
        groups = [bytes.fromhex(group) for group in match.groups()]
    except ValueError:
        return
    yield b"".join([*(group[::-1] for group in groups[:3]), *groups[3:]])
