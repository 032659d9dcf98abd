"""The shareable bytes of two raw images, calculated in one step.

::

    equal                        |........| |...........|         from a scan
    data of the template's file  |.............| |......|         extents that were written
    in the same blocks already        |..|
    data of the guest's file     |.................|  |.|         listed only if anything is left
    shareable                    |....|  || |..| |.|  |.|

This takes a thirtieth of the time of :mod:`~batchdiff.image.storage.shareable`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.image.storage.block_ranges import Offsets, overlaps
from batchdiff.image.storage.shared_blocks import BlockRuns, raw_extents, shared_by_both
from batchdiff.image_source import ImageFormat
from batchdiff.linux.fiemap import ExtentFlag, ExtentTable, extent_table
from batchdiff.linux.reflinks import why_not_shared
from batchdiff.qcow2.entries import Origin

_BLOCK = 4096
"""The usual block of XFS and btrfs, and the unit of a scan."""

_ODD = int(ExtentFlag.NOT_ALIGNED | ExtentFlag.INLINE | ExtentFlag.TAIL | ExtentFlag.DELAYED | ExtentFlag.ENCODED)


@dataclass(slots=True)
class TemplateBlocks:
    """A template, and its extents, which are found only once and serve all guests."""

    image: Image
    _extents: list[ExtentTable | None] = field(default_factory=list)

    @property
    def extents(self) -> ExtentTable | None:
        """The extents of a raw template; None if its filesystem does not report them.

        :raises ImageError: the filesystem reports an error.
        """
        if not self._extents:
            layer = self.image.layers[0]
            self._extents.append(extent_table(layer.fd, layer.path, having=0))
        return self._extents[0]


class RawShareable(NamedTuple):
    """The ranges of a raw guest that can still be shared, sorted and disjoint.

    ``shared``: the guest's extents that are shared already, with any file.
    """

    starts: Offsets
    ends: Offsets
    shared: ExtentTable


def raw_shareable(
    template: TemplateBlocks, guest: Image, equal: BlockRuns, known: ExtentTable | None = None
) -> RawShareable | None:
    """Return which equal bytes of two raw images can still be shared; None if they must be found range by range.

    All offsets in ``equal``, except perhaps the last end, are multiples of 4 KiB. ``known``: the guest's
    :func:`~batchdiff.image.storage.shared_blocks.raw_extents`, if found before.

    :raises ImageError: the filesystem reports an error.
    """
    if not (_is_plain(template.image) and _is_plain(guest)):
        return None
    one, other = template.image.layers[0], guest.layers[0]
    if why_not_shared(one.fd, other.fd) is not None or os.fstatvfs(other.fd).f_bsize != _BLOCK:
        return None
    ours, theirs = template.extents, known or raw_extents(guest)
    if ours is None or theirs is None or any(len(each.having(_ODD).length) for each in (ours, theirs)):
        return None
    sizes = {os.fstat(layer.fd).st_size for layer in (one, other)}
    # A block in which only one of the two files ends cannot be shared.
    size = min(sizes) if len(sizes) == 1 else min(sizes) // _BLOCK * _BLOCK
    apart = _without(_common(equal, _written(ours, size)), shared_by_both(ours, theirs))
    # Listing a guest's data takes two system calls for each piece, so list only what may be left to share.
    free = _common(apart, _data(other, int(apart[0][0]), int(apart[1][-1]))) if len(apart[0]) else apart
    return RawShareable(*free, theirs.having(ExtentFlag.SHARED))


def _is_plain(image: Image) -> bool:
    return image.source.format is ImageFormat.RAW and len(image.layers) == 1


def _written(table: ExtentTable, size: int) -> BlockRuns:
    written = table.chosen(table.flags & ExtentFlag.UNWRITTEN == 0)
    starts, ends = written.logical, np.minimum(written.logical + written.length, size)
    return starts[starts < ends], ends[starts < ends]


def _data(layer: Layer, start: int, end: int) -> BlockRuns:
    """Return the parts that are not holes: the kernel lists these faster than extents."""
    parts = [(each.start, each.end) for each in layer.parts(start, end) if each.origin is Origin.FILE]
    table = np.array(parts, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _common(one: BlockRuns, other: BlockRuns) -> BlockRuns:
    starts, ends, _, _ = overlaps(one, other)
    return starts, ends


def _without(runs: BlockRuns, others: BlockRuns) -> BlockRuns:
    if not len(others[0]):
        return runs
    most = np.iinfo(np.int64).max
    between = np.concatenate([[0], others[1]]), np.concatenate([others[0], [most]])
    kept = between[0] < between[1]
    return _common(runs, (between[0][kept], between[1][kept]))
