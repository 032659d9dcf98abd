"""The pictures of the HTML report: change maps as SVG paths, and overlay sizes as bars; pure.

::

    y = 0    |  ##   #    data: a path for each strength of colour
    y = 7    |     ==     zeros: the same
    y = 10
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.report.plan.change_map import ChangeMap, Shares

_STRENGTHS = (0.05, 0.25, 0.6, 1.0)
"""The largest share of a bin for each strength of colour, the faintest first."""

_DATA, _ZEROS = (0, 7), (7, 3)
"""The top edge and the height of each row of a map."""


class MapPath(NamedTuple):
    """A path in an SVG."""

    style: str
    path: str


class SizeBar(NamedTuple):
    """An overlay's size with one cluster size, in bytes and as a percentage of the largest such size."""

    cluster_size: int
    size: int
    percent: float
    chosen: bool


def map_paths(changes: ChangeMap) -> list[MapPath]:
    """Return the paths of a guest's map, one unit wide for each bin, and 10 units high."""
    return [*_row("data", changes.data, *_DATA), *_row("zeros", changes.zeros, *_ZEROS)]


def crowd_paths(shares: Shares) -> list[MapPath]:
    """Return the paths of a map of several guests.

    ``shares``: by bin, the share of guests whose data differs there.
    """
    return list(_row("data", shares, 0, 10))


def _row(style: str, shares: Shares, top: int, height: int) -> Iterable[MapPath]:
    # Strength 0 stands for a share of 0.
    strengths = np.where(shares > 0, np.searchsorted(_STRENGTHS, shares) + 1, 0)
    for strength in range(1, len(_STRENGTHS) + 1):
        runs = _runs(strengths == strength)
        if runs:
            path = "".join(f"M{start} {top}h{count}v{height}h-{count}z" for start, count in runs)
            yield MapPath(f"{style}{strength}", path)


def _runs(chosen: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def size_bars(sizes: Iterable[tuple[int, int]], chosen: int | None) -> list[SizeBar]:
    """Return a bar for each pair of cluster size and overlay size."""
    sizes = list(sizes)
    largest = max((size for _, size in sizes), default=1) or 1
    return [SizeBar(cluster, size, round(100 * size / largest, 1), cluster == chosen) for cluster, size in sizes]
