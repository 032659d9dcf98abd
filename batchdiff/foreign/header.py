"""Limits on the disk that a header describes, and reads of headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from batchdiff.qcow2.faults import FormatError, require
from batchdiff.units import ceil_div, format_size

ReadAt = Callable[[int, int], bytes]
"""Reads bytes by offset and length; fewer at the end of the file. Its callers pass on its errors."""

NamedFile = tuple[str, str | None] | None
"""A backing file's name, and its format (None if the header gives none); None if the header names no such file."""


_CLUSTERS_OF_NOTHING, _BYTES_OF_A_CLUSTER = 1 << 24, 64
"""Even an empty file is allowed to describe 1 TiB in grains of 64 KiB, which QEMU maps in four seconds."""


class Outline(NamedTuple):
    """The number of an image's clusters, and its backing file.

    ``clusters``: for VHDX, the number of entries that the disk needs in the block table. ``bytes_each``: the bytes
    on disk required for each cluster beyond ``_CLUSTERS_OF_NOTHING``.
    """

    clusters: int
    backing: NamedFile = None
    bytes_each: int = _BYTES_OF_A_CLUSTER


COPY = "Make a qcow2 copy with `qemu-img convert`, and use that in the manifest."
"""A remedy for a sound image that batchdiff refuses."""

_MOST_CLUSTERS = 1 << 27
"""QEMU takes half a minute to map this many, even on an empty disk."""


def is_mappable(size: int, cluster: int) -> bool:
    """Return whether QEMU can map a disk in reasonable time; both sizes are in the same unit."""
    return ceil_div(size, cluster) <= _MOST_CLUSTERS


def require_mappable(size: int, cluster: int) -> int:
    """Return the number of clusters of a disk; both sizes are in the same unit.

    :raises FormatError: there are too many to map in reasonable time.
    """
    count = ceil_div(size, cluster)
    require(
        is_mappable(size, cluster),
        f"its {count} clusters are too many to map (at most {_MOST_CLUSTERS})",
        remedy=COPY,
    )
    return count


def require_stored(outline: Outline, stored: int) -> None:
    """Require enough bytes on disk (``stored``) for the clusters of an image.

    :raises FormatError: QEMU would need a lot of time or memory for a nearly empty image.
    """
    count, most = outline.clusters, _CLUSTERS_OF_NOTHING + stored // outline.bytes_each
    require(
        count <= most,
        f"its {count} clusters or table entries are too many to map for an image that takes"
        f" {format_size(stored)} on disk (at most {most})",
        remedy=COPY,
    )


def exactly(read: ReadAt, offset: int, length: int, what: str) -> bytes:
    """Read all bytes of a part of the file.

    :raises FormatError: the part is truncated.
    """
    data = read(offset, length)
    if len(data) < length:
        raise FormatError(f"it is truncated: its {what} is incomplete or missing")
    return data
