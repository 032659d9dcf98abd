"""VMware's VMDK in one sparse file, with its descriptor inside (monolithicSparse), and sparse extents without one.

::

    | header 512 | descriptor, text | grain directories and tables | grains of 64 KiB ... |

Source: QEMU ``block/vmdk.c``; VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import re
import struct

from batchdiff.foreign.header import ReadAt, exactly, require_mappable
from batchdiff.foreign.vdi import DIFFERENCE
from batchdiff.qcow2.faults import require
from batchdiff.units import SECTOR, TIB, ceil_div

SPARSE_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
TEXT_AT, TEXT_BYTES = SECTOR, 20 * SECTOR
"""Where QEMU looks for a parent, whatever the header says about the descriptor's place and size."""
NO_SIGNATURE = "it is not a VMDK image: its signature is missing"
NO_DESCRIPTOR = "its descriptor is missing, too large, or not right behind the header"
INVALID_SIZES = "its grains or tables have invalid sizes"
DIRECTORY_OUTSIDE = "its grain directory is outside the file"
_MOST_GRAIN = 128 * 1024 // SECTOR * 1024
MOST_SECTORS = 64 * TIB // SECTOR
AT_END = (1 << 64) - 1

_VALUE = re.compile(rb'^[ \t]*(\w+)[ \t]*=[ \t]*"?([^"\r\n]*?)"?[ \t]*\r?$', re.MULTILINE)
_EXTENT = re.compile(rb"^[ \t]*(?:rw|rdonly|noaccess)[ \t]+\d+[ \t]+(\w+)", re.MULTILINE)
_EXTENT_NAME = re.compile(rb'^(RW \d+ SPARSE ")[^"\n]*"', re.MULTILINE)
_NO_PARENT, _SPARSE = b"ffffffff", "monolithicsparse"
_SPARSE_TYPES = {_SPARSE: "monolithicSparse", "streamoptimized": "streamOptimized"}


def inspect_vmdk(read: ReadAt, file_size: int) -> None:
    """Inspect the header and the descriptor of a VMDK image.

    :raises FormatError: it is not one, is damaged or compressed, or has a parent.
    """
    text_at, text_size = _inspect_header(read, file_size)
    require(
        text_at * SECTOR == TEXT_AT and 0 < text_size * SECTOR <= TEXT_BYTES,
        NO_DESCRIPTOR,
    )
    exactly(read, TEXT_AT, text_size * SECTOR, "descriptor")
    inspect_descriptor(read(TEXT_AT, TEXT_BYTES), _SPARSE)


def inspect_extent(read: ReadAt, file_size: int, length: int, *, is_last: bool) -> None:
    """Inspect the header of a sparse extent, which holds ``length`` bytes of a disk and no descriptor.

    :raises FormatError: it is not one, is damaged or compressed, or holds another number of bytes.
    """
    text_at, text_size = _inspect_header(read, file_size)
    # QEMU leaves room for a descriptor, and writes none.
    text = read(text_at * SECTOR, 1) if text_at and text_size else b""
    require(text in {b"", b"\0"}, "it is an image of its own, with a descriptor")
    fields = SPARSE_HEADER.unpack(read(0, SPARSE_HEADER.size))
    capacity, grain = fields[3] * SECTOR, fields[4] * SECTOR
    require(capacity == length, f"it holds {capacity} bytes of the disk, where the descriptor has {length}")
    # QEMU would read on behind the end of the extent, to the end of its last grain.
    require(is_last or capacity % grain == 0, f"its {capacity} bytes are not whole grains of {grain}")


def _inspect_header(read: ReadAt, file_size: int) -> tuple[int, int]:
    """Inspect what images and extents have in common; return place and size of the descriptor, in sectors."""
    fields = SPARSE_HEADER.unpack(exactly(read, 0, SPARSE_HEADER.size, "header"))
    mark, version, _, capacity, grain, text_at, text_size, entries, _, directory, _, _, _, compression = fields
    require(mark == b"KDMV", NO_SIGNATURE)
    require(version <= 3, f"VMDK version {version} is unknown (1 to 3 are known)")
    require(compression == 0, f"its compression {compression} is unknown (1, deflate, is known)")
    require(directory != AT_END, "it has a footer, but is not compressed")
    # Without a capacity, QEMU would treat the file as a text descriptor, and open the extents that it names.
    require(capacity > 0, "its size is 0")
    is_power = grain & (grain - 1) == 0
    require(8 <= grain <= _MOST_GRAIN and is_power and 0 < entries <= 512, INVALID_SIZES)
    # Each entry of the directory points to one table.
    tables = ceil_div(capacity, grain * entries)
    require(capacity <= MOST_SECTORS, f"its size of {capacity} sectors exceeds 64 TiB")
    require_mappable(capacity * SECTOR, grain * SECTOR)
    require(directory * SECTOR + tables * 4 <= file_size, DIRECTORY_OUTSIDE)
    return text_at, text_size


def with_extent_name(descriptor: bytes, name: str) -> bytes:
    """Return a descriptor whose extent has the name that VMware looks for; unchanged if the name does not fit."""
    if not name.isascii() or not name.isprintable() or '"' in name:
        return descriptor
    changed = _EXTENT_NAME.sub(lambda found: found[1] + name.encode() + b'"', descriptor.rstrip(b"\0"), count=1)
    return changed.ljust(len(descriptor), b"\0") if len(changed) < len(descriptor) else descriptor


def inspect_descriptor(text: bytes, expected: str) -> None:
    """Inspect the descriptor of an image in one sparse file, whose type must be the one ``expected``.

    :raises FormatError: it has another type, another file or a parent, or more than one meaning.
    """
    text = text.split(b"\0", 1)[0].lower()
    # QEMU uses the first occurrence of a word, so there must be only one.
    for word in (b"createtype", b"parentcid"):
        require(text.count(word) <= 1, f"its descriptor has {word.decode()} twice")
    values = dict(_VALUE.findall(text))
    require(b"parentfilenamehint" not in text, DIFFERENCE)
    require(values.get(b"parentcid", _NO_PARENT) == _NO_PARENT, DIFFERENCE)
    kind = values.get(b"createtype", b"").decode("ascii", "backslashreplace")
    require(bool(kind), "its descriptor has no type")
    require(
        kind in _SPARSE_TYPES, f"its type {kind} is not supported yet ({' and '.join(_SPARSE_TYPES.values())} are)"
    )
    require(kind == expected, f"its descriptor has the type {_SPARSE_TYPES[kind]}, which contradicts its header")
    require(_EXTENT.findall(text) == [b"sparse"], "its descriptor does not name exactly one sparse extent")
