"""The file names in a qcow2 header, read even if the rest of the image is damaged or unsupported.

A dirty or damaged image cannot be converted, but it still depends on its backing file.
"""

from __future__ import annotations

import struct

from batchdiff.qcow2.extensions import DATA_FILE, backing_format, c_string, extensions_of
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.header import MAGIC, backing_name_in, version_3_fields

_FIELDS = struct.Struct(">4sIQI")
_SHORTEST = 72
"""Bytes of a version 2 header."""


def named_backing(head: bytes) -> tuple[str | None, str | None]:
    """Return the name and format of the backing file from a file's first cluster; each None if missing.

    The format is also None if a header extension is damaged.

    :raises FormatError: it is not a qcow2 image, or its header is damaged.
    """
    if len(head) < _SHORTEST or head[:4] != MAGIC:
        raise FormatError("it is not a qcow2 image")
    _, version, offset, size = _FIELDS.unpack_from(head)
    length = version_3_fields(head, version)[4]
    name = backing_name_in(head, offset, size, 0)  # QEMU also follows a name that lies inside the fixed fields
    try:
        return name, backing_format(list(extensions_of(head, length, offset)))
    except FormatError:
        return name, None


def named_data_file(head: bytes) -> str | None:
    """Return the name of the external data file from a file's first cluster; None if missing.

    :raises FormatError: it is not a qcow2 image, or its header is damaged.
    """
    if len(head) < _SHORTEST or head[:4] != MAGIC:
        raise FormatError("it is not a qcow2 image")
    _, version, offset, _ = _FIELDS.unpack_from(head)
    length = version_3_fields(head, version)[4]
    for kind, data in extensions_of(head, length, offset):
        if kind == DATA_FILE:
            return c_string(data).decode("utf-8", "surrogateescape")
    return None


def name_ends_at(head: bytes) -> int:
    """Return the file offset at which the backing file's name ends; 0 if its offset is 0 or missing."""
    if len(head) < _SHORTEST:
        return 0
    _, _, offset, size = _FIELDS.unpack_from(head)
    return int(offset + size) if offset else 0
