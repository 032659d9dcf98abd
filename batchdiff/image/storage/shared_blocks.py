"""The bytes of two images that are in the same blocks on disk, as the filesystem reports them.

::

    guest bytes        0          64k         128k        192k
    template           disk 100   disk 116    disk 132          FIEMAP of its file, at the segments' addresses
    guest              disk 100   disk 900    disk 132
                       shared     --          shared            same block, and both marked shared

Extents match only if both are marked as shared: equal block numbers alone may belong to two devices of one
filesystem. Extents that do not hold the files' bytes unchanged never match, except encoded ones on request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.storage.block_ranges import Blocks, Offsets, blocks_of, overlaps
from batchdiff.image_source import ImageFormat
from batchdiff.linux.fiemap import ExtentFlag, ExtentTable, PhysicalExtent, extent_table, physical_extents
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB

_NEAR = 4 * MIB
"""Two segments with at most this many bytes between them are mapped by one call.

With extents of 1 MiB, one call takes a tenth of the time of two; with extents of 4 KiB, three times as long.
"""

# A plain number: testing enumeration members costs more than all the rest here.
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


class SharedExtent(NamedTuple):
    """Guest bytes ``start`` to ``end``, in blocks that begin at byte ``physical`` of ``device`` (``st_dev``)."""

    start: int
    end: int
    device: int
    physical: int


def has_shared_extents(image: Image) -> bool:
    """Return whether any file of a chain has blocks that its filesystem reports as shared.

    :raises ImageError: the filesystem reports an error.
    """
    return any(
        True
        for layer in image.layers
        for _ in physical_extents(layer.fd, layer.path, having=ExtentFlag.SHARED) or ()
    )


def shared_blocks(image: Image) -> dict[int, Blocks]:
    """Return the blocks that filesystems report as shared in the files of a chain, by device number (``st_dev``).

    :raises ImageError: the filesystem reports an error.
    """
    found: dict[int, list[ExtentTable]] = {}
    for layer in image.layers:
        table = extent_table(layer.fd, layer.path, having=ExtentFlag.SHARED)
        if table is not None:
            found.setdefault(os.fstat(layer.fd).st_dev, []).append(table)
    return {device: blocks_of(*tables) for device, tables in found.items()}


def raw_extents(image: Image) -> ExtentTable | None:
    """Return the extents of a raw image that are shared or unwritten.

    None for other formats, in which the guest's offsets are not the file's, or if extents are not reported.

    :raises ImageError: the filesystem reports an error.
    """
    if image.source.format is not ImageFormat.RAW:
        return None
    (layer,) = image.layers
    return extent_table(layer.fd, layer.path, having=ExtentFlag.SHARED | ExtentFlag.UNWRITTEN)


BlockRuns = tuple[Offsets, Offsets]
"""Starts and exclusive ends of ranges of a guest's bytes, sorted and disjoint."""


def shared_bytes(table: ExtentTable, size: int) -> BlockRuns:
    """Return which bytes of a raw image, ``size`` bytes long, are stored unchanged in shared blocks."""
    fit = _fit(table)
    starts, ends = fit.logical, np.minimum(fit.logical + fit.length, size)
    return starts[starts < ends], ends[starts < ends]


def shared_by_both(template: ExtentTable, guest: ExtentTable) -> BlockRuns:
    """Return the bytes that two raw images on one filesystem have in the same blocks at the same offsets."""
    ours, theirs = _fit(template), _fit(guest)
    starts, ends, one, other = overlaps(
        (ours.logical, ours.logical + ours.length), (theirs.logical, theirs.logical + theirs.length)
    )
    same = (ours.physical - ours.logical)[one] == (theirs.physical - theirs.logical)[other]
    starts, ends = starts[same], ends[same]
    joins = starts[1:] == ends[:-1]
    return starts[np.concatenate([[True], ~joins])[: len(starts)]], ends[
        np.concatenate([~joins, [True]])[: len(ends)]
    ]


def runs_within(runs: BlockRuns, start: int, end: int) -> list[tuple[int, int]]:
    """Return the runs that overlap bytes ``start`` to ``end``, not cut to that range."""
    starts, ends = runs
    first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
    return list(zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True))


def _fit(table: ExtentTable) -> ExtentTable:
    return table.chosen((table.flags & ExtentFlag.SHARED != 0) & (table.flags & _UNFIT == 0))


def shared_extents(image: Image, segments: list[Segment], *, packed: bool = False) -> list[SharedExtent]:
    """Return the parts of FILE segments whose blocks are marked as shared, sorted by ``start``.

    ``packed``: include encoded blocks, whose places prove nothing about their bytes: btrfs reports one place for
    all parts of a compressed extent.

    :raises ImageError: the filesystem reports an error.
    """
    found: list[SharedExtent] = []
    unfit = _UNFIT & ~int(ExtentFlag.ENCODED) if packed else _UNFIT
    for number, layer in enumerate(image.layers):
        device = os.fstat(layer.fd).st_dev
        stored = [segment for segment in segments if segment.layer == number and segment.origin is Origin.FILE]
        for group in _groups(sorted(stored, key=_address)):
            extents = physical_extents(
                layer.fd, layer.path, group[0].address, _end_address(group[-1]), having=ExtentFlag.SHARED
            )
            found.extend(_cut_to_segments(group, iter(extents or ()), device, unfit))
    found.sort()
    return found


def _address(segment: Segment) -> int:
    return segment.address


def _end_address(segment: Segment) -> int:
    return segment.address + segment.end - segment.start


def _groups(segments: list[Segment]) -> Iterator[list[Segment]]:
    first = 0
    for number in range(1, len(segments) + 1):
        if number == len(segments) or segments[number].address - _end_address(segments[number - 1]) > _NEAR:
            yield segments[first:number]
            first = number


def _cut_to_segments(
    segments: list[Segment], extents: Iterator[PhysicalExtent], device: int, unfit: int
) -> Iterator[SharedExtent]:
    """Both ``segments`` and ``extents`` are sorted by address."""
    extent = next(extents, None)
    for segment in segments:
        shift, end = segment.start - segment.address, _end_address(segment)
        while extent is not None and extent.logical < end:
            first, last = max(extent.logical, segment.address), min(extent.logical + extent.length, end)
            if first < last and not extent.flags & unfit:
                yield SharedExtent(first + shift, last + shift, device, extent.physical + first - extent.logical)
            if extent.logical + extent.length > end:
                break  # the next segment may be in this extent as well
            extent = next(extents, None)


def common_ranges(template: list[SharedExtent], guest: list[SharedExtent]) -> list[tuple[int, int]]:
    """Return the guest bytes (start, end) for which both sorted lists have the same blocks."""
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
