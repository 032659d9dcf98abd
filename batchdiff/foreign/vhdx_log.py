"""The log of a VHDX image: changes to its tables that a program may have left unfinished.

::

    log    | entry | entry | ... | old entries |      an entry: header with checksum, descriptors, data; may wrap

QEMU ignores a log without a valid entry.

Source: Microsoft, [MS-VHDX], 2.3; QEMU ``block/vhdx-log.c`` (``vhdx_log_search``).
"""

from __future__ import annotations

import struct

from batchdiff.foreign.crc32c import vhdx_checksum
from batchdiff.foreign.header import ReadAt, exactly
from batchdiff.units import KIB, MIB

_ENTRY = struct.Struct("<4sII4xQ8x16s")
_SECTOR = 4 * KIB
_LARGEST = 64 * MIB
"""The largest log that is searched; most logs are 1 MiB long."""
_MOST_CHECKED = 4 * MIB
"""The maximum number of bytes to checksum: about a second's work."""


def has_valid_entry(read: ReadAt, start: int, length: int, guid: bytes) -> bool:
    """Return whether a log has an entry that must be replayed; also True if the search would take too long.

    :raises FormatError: the log is truncated.
    """
    if length > _LARGEST:
        return True
    data = exactly(read, start, length, "log")
    left = _MOST_CHECKED
    for at in range(0, length, _SECTOR):
        signature, checksum, size, sequence, of = _ENTRY.unpack_from(data, at)
        if signature != b"loge" or of != guid or not sequence or not 0 < size <= length or size % _SECTOR:
            continue
        left -= size
        entry = data[at : at + size]
        if left < 0 or checksum == vhdx_checksum(entry + data[: size - len(entry)]):
            return True
    return False
