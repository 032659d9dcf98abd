"""Sets of block ranges on a disk, and a test of whether one lies within another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchdiff.image.fiemap import PhysicalExtent


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Byte ranges of one disk: disjoint and ascending; ``ends`` are exclusive."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def are_within(self, others: Blocks) -> bool:
        """Return whether every range lies within one of the others."""
        if not len(self.starts):
            return True
        if not len(others.starts):
            return False
        number = np.searchsorted(others.starts, self.starts, side="right") - 1
        return bool(((number >= 0) & (self.ends <= others.ends[number])).all())


NO_BLOCKS = Blocks(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def blocks_of(extents: Iterable[PhysicalExtent]) -> Blocks:
    """Return the ranges that extents take on their disk, sorted and merged."""
    found = np.array([(each.physical, each.physical + each.length) for each in extents], dtype=np.int64)
    if not len(found):
        return NO_BLOCKS
    found = found[np.argsort(found[:, 0], kind="stable")]
    reach = np.maximum.accumulate(found[:, 1])
    first = np.concatenate([[True], found[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return Blocks(found[first, 0], reach[last])
