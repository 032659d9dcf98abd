"""Which bytes of two images are the same blocks on disk, told by the filesystem: reflink copies.

::

    guest bytes        0          64k         128k        192k
    template           disk 100   disk 116    disk 132          FIEMAP of its file, at the segments' addresses
    guest              disk 100   disk 900    disk 132
                       shared     --          shared            same block, and both marked shared

Only extents that hold the file's bytes as they are count: not encoded, unwritten, inline or not yet written
ones. Both must be marked as shared, so that equal numbers on two devices of one filesystem are no match.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from batchdiff.image.contract import Segment
from batchdiff.image.fiemap import ExtentFlag, physical_extents
from batchdiff.image.image import Image
from batchdiff.qcow2.entries import Origin

# A plain number: testing enumeration members costs more than all the rest here.
_SHARED = int(ExtentFlag.SHARED)
_UNFIT = int(
    ExtentFlag.UNKNOWN
    | ExtentFlag.DELAYED
    | ExtentFlag.ENCODED
    | ExtentFlag.ENCRYPTED
    | ExtentFlag.NOT_ALIGNED
    | ExtentFlag.INLINE
    | ExtentFlag.TAIL
    | ExtentFlag.UNWRITTEN
)


class Placed(NamedTuple):
    """Guest bytes ``start`` to ``end`` that are on a device from byte ``physical`` on, shared with somebody."""

    start: int
    end: int
    device: int
    physical: int


def has_shared_extents(image: Image) -> bool:
    """Whether any file of a chain shares blocks with another file.

    :raises ImageError: the filesystem cannot tell.
    """
    return any(
        extent.flags & ExtentFlag.SHARED
        for layer in image.layers
        for extent in physical_extents(layer.fd, layer.path) or ()
    )


def placed(image: Image, segments: list[Segment]) -> list[Placed]:
    """Where the FILE segments of an image are on disk, as far as the filesystem tells and others share it.

    :raises ImageError: the filesystem has a fault.
    """
    found = []
    for segment in segments:
        if segment.origin is not Origin.FILE:
            continue
        layer, shift = image.layers[segment.layer], segment.start - segment.address
        device = os.fstat(layer.fd).st_dev
        end = segment.address + segment.end - segment.start
        for extent in physical_extents(layer.fd, layer.path, segment.address, end) or ():
            if extent.flags & _SHARED and not extent.flags & _UNFIT:
                first, last = max(extent.logical, segment.address), min(extent.logical + extent.length, end)
                found.append(Placed(first + shift, last + shift, device, extent.physical + first - extent.logical))
    return found


def shared(template: list[Placed], guest: list[Placed]) -> list[tuple[int, int]]:
    """The guest bytes (start, end) at which both lists, sorted, name the same blocks."""
    found = []
    ours, theirs = iter(template), iter(guest)
    one, other = next(ours, None), next(theirs, None)
    while one is not None and other is not None:
        start, end = max(one.start, other.start), min(one.end, other.end)
        same_blocks = one.device == other.device and one.physical - one.start == other.physical - other.start
        if start < end and same_blocks:
            found.append((start, end))
        if one.end <= other.end:
            one = next(ours, None)
        else:
            other = next(theirs, None)
    return found
