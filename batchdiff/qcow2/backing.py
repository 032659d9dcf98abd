"""The backing file that a header names, read also where all else in the image is damaged or unknown to us.

A dirty, encrypted or damaged image is of no use to us, and still rests on its backing file.
"""

from __future__ import annotations

import struct

from batchdiff.qcow2.header import (
    MAGIC,
    FormatError,
    backing_format,
    backing_name,
    extensions_of,
    version_3_fields,
)

_FIELDS = struct.Struct(">4sIQI")
_SHORTEST = 72
"""A header of version 2."""


def named_backing(head: bytes) -> tuple[str | None, str | None]:
    """Name and format of the backing file that the first cluster of a file names; None where it names none.

    :raises FormatError: it is no qcow2 image, or names its backing file outside the header.
    """
    if len(head) < _SHORTEST or head[:4] != MAGIC:
        raise FormatError("it is no qcow2 image")
    _, version, offset, size = _FIELDS.unpack_from(head)
    length = version_3_fields(head, version)[4]
    name = backing_name(head, offset, size, length)
    try:
        return name, backing_format(dict(extensions_of(head, length, offset)))
    except FormatError:
        return name, None
