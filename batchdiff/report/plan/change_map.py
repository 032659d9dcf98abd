"""A map of the parts of a guest's disk that an overlay stores; pure.

::

    0 ............ the largest disk of the plan ............  400 bins, the same for all guests
    data    0  0  .3 1  1  0  0  0  .01  0     the share of each bin that is stored as data
    zeros   0  0  0  0  0  .5 1  1  0    0     the same for zeros
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Kind
from batchdiff.plan.extents import extents_of
from batchdiff.plan.plan import Diff

BINS = 400

Shares = npt.NDArray[np.float64]
"""A share from 0 to 1 for each bin."""


class ChangeMap(NamedTuple):
    """The share of each bin that an overlay stores as data, and as zeros."""

    data: Shares
    zeros: Shares


def change_map(diff: Diff, scale: int) -> ChangeMap:
    """Return a guest's map, whose bins divide ``scale`` bytes; the disk may be smaller.

    :raises ValueError: the extents are invalid.
    """
    extents = extents_of(diff)
    return ChangeMap(*(_shares(extents.pairs(kind) * diff.unit, scale) for kind in (Kind.DATA, Kind.ZERO)))


def _shares(runs: npt.NDArray[np.int64], scale: int) -> Shares:
    """Return the share of each bin that is covered by ``runs``, which are rows of start and length, in bytes."""
    if not len(runs):
        return np.zeros(BINS)
    start, length = runs[:, 0], runs[:, 1]
    # The number of covered bytes below an offset grows along each run, and stays the same between two runs.
    end, below = start + length, np.cumsum(length)
    offsets = np.stack([start, end], axis=1).ravel()
    covered = np.stack([below - length, below], axis=1).ravel()
    edges = np.linspace(0, scale, BINS + 1)
    # The last unit of a disk may reach past its end.
    return np.clip(np.diff(np.interp(edges, offsets, covered)) * BINS / scale, 0, 1)
