"""The header extensions of a qcow2 file: parsed, checked and encoded.

::

    | header | type, length | data, padding to 8 | type, length | data ... | 0, 0 | ...| backing file name
             ^ the header's length                                                    ^ extensions end before it

Source: QEMU ``docs/interop/qcow2.txt``, "Header extensions"; ``qcow2_read_extensions()`` in its ``block/qcow2.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from batchdiff.qcow2.faults import LEGACY_ENCRYPTION, NEWER_QEMU, require, require_opened
from batchdiff.units import KIB, align_up

BACKING_FORMAT, DATA_FILE = 0xE2792ACA, 0x44415441
_END, _BITMAPS, _ENCRYPTION = 0, 0x23852875, 0x0537BE77
_HEAD = struct.Struct(">II")

AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA_FILE = 1 << 0, 1 << 1

LUKS = 2
"""The header's encryption method for LUKS."""

_ENCRYPTION_FIELDS = struct.Struct(">QQ")

_NAME_IT = (
    "If the definition of its VM names that file, write the name into the image: `qemu-img amend -o data_file=FILE"
    " --image-opts driver=qcow2,file.filename=IMAGE,data-file.filename=FILE`. Otherwise restore the image from a"
    " backup."
)

_LONGEST_FORMAT = 15
"""QEMU stores the format's name in 16 bytes, including the final 0."""

_BITMAPS_FIELDS = struct.Struct(">IIQQ")
_MAX_BITMAPS = 65535
_MAX_DIRECTORY = 65535 * KIB
_SHORTEST_BITMAP = 24


def extensions_of(cluster: bytes, length: int, name_offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield the type and data of each header extension. ``length``: bytes of the header's fields.

    :raises FormatError: the extensions do not fit into the header.
    """
    at, end = length, min(name_offset or len(cluster), len(cluster))
    while at < end:
        require_opened(
            at + _HEAD.size <= end,
            f"the space left for header extensions ({end - at} B) is too small for another one",
        )
        kind, size = _HEAD.unpack_from(cluster, at)
        at += _HEAD.size
        require_opened(at + size <= end, f"the header extension {kind:#x} does not fit into the header")
        if kind == _END:
            return
        yield kind, cluster[at : at + size]
        at += align_up(size, 8)


def packed_extension(kind: int, data: bytes) -> bytes:
    """Return an extension, padded to a multiple of 8 bytes."""
    return _HEAD.pack(kind, len(data)) + data + bytes(-len(data) % 8)


def end_of_extensions() -> bytes:
    """Return the extension that ends the list."""
    return packed_extension(_END, b"")


def c_string(data: bytes) -> bytes:
    """Cut a string at its first null byte, as QEMU does."""
    return data.split(b"\0", 1)[0]


def luks_header_in(found: list[tuple[int, bytes]], crypt: int) -> tuple[int, int] | None:
    """Return the offset and length of the LUKS header; None if the file is not encrypted.

    ``crypt``: the header's encryption method.

    :raises FormatError: the encryption is invalid or unsupported.
    """
    require(crypt != 1, "it is encrypted with AES, qcow2's legacy encryption", remedy=LEGACY_ENCRYPTION)
    require(crypt in {0, LUKS}, f"its encryption method {crypt} is unknown", remedy=NEWER_QEMU)
    offset = length = 0
    named = [data for kind, data in found if kind == _ENCRYPTION]
    require(len(named) <= 1, "it names more than one LUKS header")
    for data in named:
        require_opened(crypt == LUKS, "it names a LUKS header, but is not encrypted with LUKS")
        require_opened(
            len(data) == _ENCRYPTION_FIELDS.size,
            f"its encryption extension has {len(data)} instead of {_ENCRYPTION_FIELDS.size} bytes",
        )
        offset, length = _ENCRYPTION_FIELDS.unpack(data)
    require_opened(crypt != LUKS or length > 0, "it is encrypted, but names no LUKS header")
    return (offset, length) if crypt == LUKS else None


def packed_encryption(offset: int, length: int) -> bytes:
    """Return the extension that names a LUKS header."""
    return packed_extension(_ENCRYPTION, _ENCRYPTION_FIELDS.pack(offset, length))


def data_file_of(found: list[tuple[int, bytes]], *, has_one: bool) -> str | None:
    """Return the name of the data file; None if the data clusters are in the image itself.

    ``has_one``: whether the feature bit for a data file is set.

    :raises FormatError: a name is missing, or there is one too many.
    """
    names = [c_string(data).decode("utf-8", "surrogateescape") for kind, data in found if kind == DATA_FILE]
    if not has_one:
        require(not names, "it names an external data file, but keeps its data in its own file")
        return None
    require(any(names), "it keeps its data in an external file, but does not name that file", remedy=_NAME_IT)
    require(len(names) == 1, "it names more than one external data file")
    return names[0]


def packed_data_file(name: str) -> bytes:
    """Return the extension that names the data file."""
    return packed_extension(DATA_FILE, name.encode("utf-8", "surrogateescape"))


def backing_format(found: list[tuple[int, bytes]]) -> str | None:
    """Return the backing file's format; None if it is missing or empty. Of several extensions, the last counts.

    :raises FormatError: a name is too long.
    """
    formats = [data for kind, data in found if kind == BACKING_FORMAT]
    for data in formats:
        require_opened(
            len(data) <= _LONGEST_FORMAT,
            f"the name of its backing format has {len(data)} bytes, more than the limit of {_LONGEST_FORMAT}",
        )
    named = c_string(formats[-1]) if formats else b""
    return named.decode("ascii", "replace") or None


def bitmaps_of(found: list[tuple[int, bytes]], autoclear: int) -> tuple[int, int, int]:
    """Return the number of persistent bitmaps, and the offset and length of their directory.

    All are 0 if there is no extension for bitmaps, or if the autoclear bit shows that it is out of date.

    :raises FormatError: the extension is invalid.
    """
    result = 0, 0, 0
    for data in [data for kind, data in found if kind == _BITMAPS]:
        # Check this even without the autoclear bit: QEMU checks the length first.
        require_opened(
            len(data) == _BITMAPS_FIELDS.size,
            f"its bitmaps extension has {len(data)} instead of {_BITMAPS_FIELDS.size} bytes",
        )
        if autoclear & AUTOCLEAR_BITMAPS:
            result = _directory(data)
    return result


def _directory(data: bytes) -> tuple[int, int, int]:
    count, reserved, length, offset = _BITMAPS_FIELDS.unpack(data)
    require_opened(reserved == 0, "the reserved field of its bitmaps extension is not 0")
    require_opened(0 < count <= _MAX_BITMAPS, f"it claims {count} bitmaps; QEMU allows 1 to {_MAX_BITMAPS}")
    require_opened(
        count * _SHORTEST_BITMAP <= length <= _MAX_DIRECTORY,
        f"its bitmap directory of {length} B is too long, or too short for the number of its bitmaps ({count})",
    )
    return count, offset, length
