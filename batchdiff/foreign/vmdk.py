"""VMware's VMDK in one sparse file, with its descriptor inside (monolithicSparse), and sparse extents without one.

::

    | header 512 | descriptor, text | grain directories and tables | grains ... |

Source: QEMU ``block/vmdk.c``; VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from batchdiff.foreign.header import Outline, ReadAt, exactly, require_mappable
from batchdiff.foreign.vdi import DIFFERENCE, MERGE
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, WRONG_FORMAT, require
from batchdiff.units import SECTOR, TIB, ceil_div

SPARSE_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
TEXT_AT, TEXT_BYTES = SECTOR, 20 * SECTOR
"""Where QEMU looks for a parent's name, whatever the header says about the descriptor's place and size."""
NO_SIGNATURE = "it is not a VMDK image: its signature is missing"
NO_DESCRIPTOR = "its descriptor is missing, too large, or not directly after the header"
_EXTENTS = {b"COWD": "vmfsSparse", b"\xbe\xba\xfe\xca": "seSparse"}
"""Types of images on ESXi, by the signatures of their extents."""
_COPY_DESCRIPTOR = (
    "Make a qcow2 copy of the whole image from its descriptor, a small text file:"
    " `qemu-img convert -f vmdk -O qcow2 DESCRIPTOR COPY`. Use the copy in the manifest."
)
INVALID_SIZES = "its grains or tables have invalid sizes"
DIRECTORY_OUTSIDE = "its grain directory is outside the file"
_MOST_GRAIN = 128 * 1024 // SECTOR * 1024
MOST_SECTORS = 64 * TIB // SECTOR
AT_END = (1 << 64) - 1

_VALUE = re.compile(rb'^[ \t]*(\w+)[ \t]*=[ \t]*"?([^"\r\n]*?)"?[ \t]*\r?$', re.MULTILINE)
_EXTENT = re.compile(rb"^[ \t]*(?:rw|rdonly|noaccess)[ \t]+\d+[ \t]+(\w+)", re.MULTILINE)
_EXTENT_NAME = re.compile(rb'^(RW \d+ SPARSE ")[^"\n]*"', re.MULTILINE)
_NO_PARENT, _SPARSE = b"ffffffff", "monolithicsparse"
_EXTENT_ALONE = "If it is an extent of another image, name the descriptor of that image in the manifest instead."
_SPARSE_TYPES = {_SPARSE: "monolithicSparse", "streamoptimized": "streamOptimized"}


class _SparseHeader(NamedTuple):
    """Places and sizes in bytes; ``grains``: the number of grains."""

    text_at: int
    text_size: int
    capacity: int
    grain: int
    grains: int


def inspect_vmdk(read: ReadAt, file_size: int) -> Outline:
    """Inspect the metadata of a VMDK image in one sparse file; return the number of its grains.

    :raises FormatError: the image cannot be used.
    """
    header = _inspect_header(read, file_size)
    require(header.text_at != 0, "it has no descriptor", remedy=_EXTENT_ALONE)
    require(header.text_at == TEXT_AT and 0 < header.text_size <= TEXT_BYTES, NO_DESCRIPTOR)
    exactly(read, TEXT_AT, header.text_size, "descriptor")
    inspect_descriptor(read(TEXT_AT, TEXT_BYTES), _SPARSE)
    return Outline(header.grains)


def inspect_extent(read: ReadAt, file_size: int, length: int, *, is_last: bool) -> int:
    """Inspect the metadata of a sparse extent; return the number of its grains.

    ``length``: in bytes, according to the descriptor. Only the last extent of an image may end within a grain.

    :raises FormatError: the extent cannot be used.
    """
    header = _inspect_header(read, file_size)
    # In an extent, QEMU leaves room for a descriptor, but writes none.
    text = read(header.text_at, 1) if header.text_at and header.text_size else b""
    require(text in {b"", b"\0"}, "it is an image of its own, with a descriptor")
    size, grain = header.capacity, header.grain
    require(size == length, f"it holds {size} bytes of the disk, but {length} according to the descriptor")
    # Otherwise QEMU would read past the end of the extent, to the end of its last grain.
    require(is_last or size % grain == 0, f"its {size} bytes are not a whole number of grains of {grain} bytes")
    return header.grains


def _inspect_header(read: ReadAt, file_size: int) -> _SparseHeader:
    fields = SPARSE_HEADER.unpack(exactly(read, 0, SPARSE_HEADER.size, "header"))
    mark, version, _, capacity, grain, text_at, text_size, entries, _, directory, _, _, _, compression = fields
    kind = _EXTENTS.get(mark, "")
    require(not kind, f"it is only an extent of an image of type {kind}", remedy=_COPY_DESCRIPTOR)
    require(mark == b"KDMV", NO_SIGNATURE, remedy=WRONG_FORMAT)
    require(version <= 3, f"VMDK version {version} is unknown (1 to 3 are known)", remedy=CONVERT_ELSEWHERE)
    require(
        compression == 0,
        f"its compression method {compression} is not supported in a file of this type",
        remedy=CONVERT_ELSEWHERE,
    )
    require(directory != AT_END, "it has a footer, but is not compressed")
    # If the capacity is 0, QEMU would treat the file as a text descriptor, and open the extents that it names.
    require(capacity > 0, "its size is 0")
    is_power = grain & (grain - 1) == 0
    require(8 <= grain <= _MOST_GRAIN and is_power and 0 < entries <= 512, INVALID_SIZES)
    tables = ceil_div(capacity, grain * entries)
    require(capacity <= MOST_SECTORS, f"its size of {capacity} sectors exceeds 64 TiB")
    count = require_mappable(capacity * SECTOR, grain * SECTOR)
    require(directory * SECTOR + tables * 4 <= file_size, DIRECTORY_OUTSIDE)
    # QEMU reads a table past the end of the file as zeros.
    pointers = struct.unpack(f"<{tables}I", exactly(read, directory * SECTOR, tables * 4, "grain directory"))
    last = max(pointers)
    require(
        last == 0 or last * SECTOR + entries * 4 <= file_size,
        f"a grain table at {last * SECTOR} is outside the file ({file_size} bytes), which is truncated or damaged",
    )
    return _SparseHeader(text_at * SECTOR, text_size * SECTOR, capacity * SECTOR, grain * SECTOR, count)


def with_extent_name(descriptor: bytes, name: str) -> bytes:
    """Return a descriptor with its extent renamed and its length kept; unchanged if that is impossible."""
    if not name.isascii() or not name.isprintable() or '"' in name:
        return descriptor
    changed = _EXTENT_NAME.sub(lambda found: found[1] + name.encode() + b'"', descriptor.rstrip(b"\0"), count=1)
    return changed.ljust(len(descriptor), b"\0") if len(changed) < len(descriptor) else descriptor


def inspect_descriptor(text: bytes, expected: str) -> None:
    """Inspect the descriptor of an image in one sparse file; ``expected``: its type in lower case.

    :raises FormatError: the descriptor cannot be used.
    """
    written = text.split(b"\0", 1)[0]
    text = written.lower()
    # QEMU uses the first occurrence of a word, so there must be only one.
    for word in (b"createtype", b"parentcid"):
        require(text.count(word) <= 1, f"its descriptor contains {word.decode()} more than once")
    values = dict(_VALUE.findall(text))
    require(b"parentfilenamehint" not in text, DIFFERENCE, remedy=MERGE)
    require(values.get(b"parentcid", _NO_PARENT) == _NO_PARENT, DIFFERENCE, remedy=MERGE)
    raw = values.get(b"createtype", b"")
    kind = raw.decode("ascii", "backslashreplace")
    require(bool(kind), "its descriptor has no type", remedy=_EXTENT_ALONE)
    named = written[text.index(raw) :][: len(raw)].decode("ascii", "backslashreplace")
    require(
        kind in _SPARSE_TYPES,
        f"its type {named} is not supported in a file with a header ({' and '.join(_SPARSE_TYPES.values())} are)",
        remedy=CONVERT_ELSEWHERE,
    )
    require(kind == expected, f"its descriptor has the type {_SPARSE_TYPES[kind]}, which contradicts its header")
    require(_EXTENT.findall(text) == [b"sparse"], "its descriptor does not name exactly one sparse extent")
