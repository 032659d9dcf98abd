"""Parallels' expanding disk: a header and a map of clusters.

Source: QEMU ``docs/interop/parallels.txt`` and ``block/parallels.c``.
"""

from __future__ import annotations

import struct

from batchdiff.foreign.header import Outline, ReadAt, exactly, require_mappable
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, SHUT_DOWN_OR_REPAIR, WRONG_FORMAT, require
from batchdiff.units import SECTOR

_HEADER = struct.Struct("<16sI8xIIQI8xQ")
_OLD, _NEW = b"WithoutFreeSpace", b"WithouFreSpacExt"
_VERSION, _IN_USE = 2, 0x746F6E59
_MOST_TRACKS = 0x7FFFFFFF // 513
_EXTENSION = "If you do not need the extension, copy the image with `qemu-img convert -O qcow2`, and use the copy."


def inspect_parallels(read: ReadAt, file_size: int) -> Outline:
    """Inspect the header of an image.

    :raises FormatError: the image cannot be used.
    """
    fields = _HEADER.unpack(exactly(read, 0, _HEADER.size, "header"))
    mark, version, tracks, entries, sectors, in_use, extension = fields
    require(mark in {_OLD, _NEW}, "it is not a Parallels image: its signature is missing", remedy=WRONG_FORMAT)
    require(version == _VERSION, f"Parallels version {version} is unknown (2 is known)", remedy=CONVERT_ELSEWHERE)
    require(0 < tracks <= _MOST_TRACKS, f"a cluster size of {tracks} sectors is invalid")
    require(
        in_use != _IN_USE,
        "it is marked as in use: its VM is running, or was not shut down cleanly",
        remedy=SHUT_DOWN_OR_REPAIR,
    )
    require(
        extension == 0,
        "it has a format extension, such as dirty bitmaps, which an overlay would lose",
        remedy=_EXTENSION,
    )
    if mark == _OLD:
        sectors &= 0xFFFFFFFF
    require(
        sectors <= entries * tracks,
        f"its cluster map has too few entries ({entries}) for a disk of {sectors * SECTOR} bytes",
    )
    count = require_mappable(sectors, tracks)
    require(_HEADER.size + entries * 4 <= file_size, "its cluster map ends past the end of the file")
    return Outline(count)
