"""Equal bytes of two raw images, without those that need no look: holes of either, and blocks that both have.

::

    equal                 |.....................|     |................................|
    guest's extents       |=========|           |=====|================|      FIEMAP, once for each file
    template's extents    |================|    |===========|
    the same blocks       |====|                      |=====|
    left                       |....|

For reflink copies nearly nothing is left. In other formats, and on filesystems that do not report extents, the
segments of both images are looked up instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from batchdiff.image.image import Image
from batchdiff.image.storage.block_ranges import overlaps
from batchdiff.image.storage.shared_blocks import BlockRuns, shared_by_both
from batchdiff.image_source import ImageFormat
from batchdiff.linux.fiemap import ExtentTable, extent_table
from batchdiff.units import KIB

_UNIT = 4 * KIB
"""Runs that begin and end at multiples of this still do so in what is left, unless blocks are smaller."""

_LAST = np.iinfo(np.int64).max


class UnsharedRuns(NamedTuple):
    """Runs (start, end) of equal bytes in different blocks of both files, and the bytes in the same blocks."""

    runs: Iterable[tuple[int, int]]
    shared: int


def unshared_runs(template: Image, guest: Image, equal: Iterable[tuple[int, int]]) -> UnsharedRuns:
    """Return what is left of ascending, disjoint runs of equal bytes; all of them if that is not known.

    :raises ImageError: the filesystem reports an error.
    """
    if {template.source.format, guest.source.format} != {ImageFormat.RAW}:
        return UnsharedRuns(equal, 0)
    (one,), (other,) = template.layers, guest.layers
    if os.fstat(one.fd).st_dev != os.fstat(other.fd).st_dev or os.fstatvfs(other.fd).f_bsize % _UNIT:
        return UnsharedRuns(equal, 0)
    ours = extent_table(one.fd, one.path, having=0)
    theirs = extent_table(other.fd, other.path, having=0)
    if ours is None or theirs is None:
        return UnsharedRuns(equal, 0)
    return left_of(equal, ours, theirs)


def left_of(equal: Iterable[tuple[int, int]], ours: ExtentTable, theirs: ExtentTable) -> UnsharedRuns:
    """Return the same for the extents of the template's file (``ours``) and of the guest's (``theirs``)."""
    runs = np.array(list(equal), dtype=np.int64).reshape(-1, 2).T
    stored = _both(_both((runs[0], runs[1]), _logical(theirs)), _logical(ours))
    common = shared_by_both(ours, theirs)
    starts, ends = _both(stored, _gaps(common))
    firsts, lasts = _both(stored, common)
    return UnsharedRuns(zip(starts.tolist(), ends.tolist(), strict=True), int((lasts - firsts).sum()))


def _both(spans: BlockRuns, runs: BlockRuns) -> BlockRuns:
    """Return the bytes that are in spans as well as in runs."""
    starts, ends, _, _ = overlaps(spans, runs)
    return starts[starts < ends], ends[starts < ends]


def _logical(table: ExtentTable) -> BlockRuns:
    """Return the bytes of a file that have blocks."""
    starts, ends = table.logical, table.logical + table.length
    # Join runs that touch each other.
    apart = starts[1:] != ends[:-1]
    return starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]


def _gaps(runs: BlockRuns) -> BlockRuns:
    """Return the bytes before, between and after runs."""
    return np.append(0, runs[1]), np.append(runs[0], _LAST)
