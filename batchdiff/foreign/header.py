"""Reads of a file that is being inspected, and limits on the disk that it describes."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.qcow2.faults import FormatError, require
from batchdiff.units import ceil_div

ReadAt = Callable[[int, int], bytes]
"""Reads bytes of the file, by offset and length; returns fewer at its end."""

NamedFile = tuple[str, str | None] | None
"""The name of a backing file as written, and its format if the header has it; None if there is none."""

_MOST_CLUSTERS = 1 << 27
"""QEMU looks at every cluster, even of an empty disk, which takes half a minute for this many."""


def is_mappable(size: int, cluster: int) -> bool:
    """Return whether QEMU can map a disk in reasonable time."""
    return ceil_div(size, cluster) <= _MOST_CLUSTERS


def require_mappable(size: int, cluster: int) -> None:
    """Require that QEMU can map a disk in reasonable time, however large a disk a small file describes.

    :raises FormatError: it has too many clusters.
    """
    count = ceil_div(size, cluster)
    require(is_mappable(size, cluster), f"its {count} clusters are too many to map (at most {_MOST_CLUSTERS})")


def exactly(read: ReadAt, offset: int, length: int, what: str) -> bytes:
    """Read all bytes of a part of the file; ``what``: its name.

    :raises FormatError: the file ends before the part does.
    """
    data = read(offset, length)
    if len(data) < length:
        raise FormatError(f"it is truncated: its {what} is missing")
    return data
