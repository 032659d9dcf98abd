"""What an overlay's data takes on its disk, walked through once, whatever the number of pieces.

::

    data of the overlay   |#############################|       granules
    of the guest          |file |hole|file     |        |       FILE and ZERO segments
    written               |#####|    |####|    |        |       less what is preallocated and was never written
    blocks of 4 KiB       |#####.|   |#####.#  |                each that is touched, once

The overlay has its own holes where the guest has holes, and where nothing was ever written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchdiff.extents import Extents, Kind
from batchdiff.image.contract import Segment
from batchdiff.image.image import Image
from batchdiff.image.sharing import shared_bytes
from batchdiff.image.unwritten import Unwritten
from batchdiff.planning.compare import UNIT
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB

_AT_ONCE = 64 * MIB
"""Whose segments are kept at once: as many as a scan keeps."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on disk of an overlay's data, and how many of them other files have already."""

    data_bytes: int
    shared_bytes: int


def footprint(image: Image, extents: Extents, granule: int, *, shares: bool) -> Footprint:
    """The footprint of the DATA of extents, in granules of so many bytes, taken from a guest as it is.

    ``shares``: blocks that others have are shared by the overlay, too.

    :raises ImageError: the guest cannot be read, or the filesystem cannot tell.
    """
    unwritten = [Unwritten(layer.fd, layer.path) for layer in image.layers]
    blocks, shared, counted = 0, 0, -1
    for segment in _segments(image, extents, granule):
        for start, end in _written(segment, unwritten):
            first, last = start // UNIT, (end - 1) // UNIT
            blocks += last - max(first, counted + 1) + 1
            counted = last
        if shares:
            shared += shared_bytes(image, [segment])
    return Footprint(blocks * UNIT, shared)


def _segments(image: Image, extents: Extents, granule: int) -> Iterator[Segment]:
    """Where the guest has what is written."""
    for first, count in extents.pairs(Kind.DATA).tolist():
        end = (first + count) * granule
        for at in range(first * granule, end, _AT_ONCE):
            yield from image.segments(at, min(at + _AT_ONCE, end))


def _written(segment: Segment, unwritten: list[Unwritten]) -> Iterator[tuple[int, int]]:
    """The parts of a segment that the overlay has as they are, as start and end."""
    if segment.origin is Origin.PACKED:
        yield segment.start, segment.end
    elif segment.origin is Origin.FILE:
        shift, end = segment.start - segment.address, segment.address + segment.end - segment.start
        for start, stop, never in unwritten[segment.layer].split(segment.address, end):
            if not never:
                yield start + shift, stop + shift
