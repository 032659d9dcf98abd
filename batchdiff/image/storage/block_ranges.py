"""Sets of byte ranges, such as blocks on a disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchdiff.frozen import frozen
from batchdiff.linux.fiemap import ExtentTable

Offsets = npt.NDArray[np.int64]


@frozen(eq=False)
class Blocks:
    """Disjoint, ascending byte ranges of one disk; ``ends`` are exclusive."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def are_within(self, others: Blocks) -> bool:
        """Return whether every range lies within one range of ``others``."""
        if not len(self.starts):
            return True
        if not len(others.starts):
            return False
        number = np.searchsorted(others.starts, self.starts, side="right") - 1
        return bool(((number >= 0) & (self.ends <= others.ends[number])).all())


NO_BLOCKS = Blocks(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def blocks_of(*tables: ExtentTable) -> Blocks:
    """Return the ranges on disk of the extents of some files."""
    if not any(len(table.physical) for table in tables):
        return NO_BLOCKS
    starts = np.concatenate([table.physical for table in tables])
    ends = np.concatenate([table.physical + table.length for table in tables])
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], starts[1:] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return Blocks(starts[first], reach[last])


def overlaps(
    spans: tuple[Offsets, Offsets], runs: tuple[Offsets, Offsets]
) -> tuple[Offsets, Offsets, Offsets, Offsets]:
    """Return the overlaps of spans and runs: starts, ends, indexes of the spans, and indexes of the runs.

    Both arguments are starts and exclusive ends, sorted and disjoint.
    """
    first = np.searchsorted(runs[1], spans[0], side="right")
    count = np.maximum(np.searchsorted(runs[0], spans[1], side="left") - first, 0)
    span = np.repeat(np.arange(len(first)), count)
    run = np.arange(len(span)) + np.repeat(first - (np.cumsum(count) - count), count)
    return np.maximum(spans[0][span], runs[0][run]), np.minimum(spans[1][span], runs[1][run]), span, run
