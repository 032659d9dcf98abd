"""The reading of a file that is being inspected."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.qcow2.faults import FormatError

ReadAt = Callable[[int, int], bytes]
"""Read bytes of the file, by offset and length; fewer at its end."""


def exactly(read: ReadAt, offset: int, length: int, what: str) -> bytes:
    """Read all bytes of a part of the file; ``what``: its name.

    :raises FormatError: the file ends before that.
    """
    data = read(offset, length)
    if len(data) < length:
        raise FormatError(f"it is truncated: its {what} is missing")
    return data
