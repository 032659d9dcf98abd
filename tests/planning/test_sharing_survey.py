"""The equal parts of a guest's disk, from the units of its scan. Guards planning/sharing_survey.py."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.extents import Kind, from_kinds
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.sharing_survey import equal_runs, stretches_with_data

KINDS = st.lists(st.sampled_from(Kind), min_size=1, max_size=40)


@given(KINDS, st.integers(0, UNIT - 1))
def test_equal_is_what_does_not_differ(kinds, cut_off):
    size = len(kinds) * UNIT - cut_off
    found = list(zip(*equal_runs(from_kinds(np.array(kinds, dtype=np.uint8)), size), strict=True))
    equal = {at for start, end in found for at in range(start, end)} if size < 64 * UNIT else set()
    assert equal == {at for at in range(size) if kinds[at // UNIT] in {Kind.SAME, Kind.SAME_ZERO}}
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))


class Disk:
    """The image of a guest with data in some stretches alone."""

    def __init__(self, data: set[int]) -> None:
        self._data = sorted(data)
        self.asked = 0

    def next_data(self, start: int) -> int | None:
        self.asked += 1
        for number in self._data:
            if start < number * RANGE + RANGE // 2 + 1:
                return max(start, number * RANGE + RANGE // 2)
        return None


def halves(ranges: Iterator[tuple[int, int]]) -> set[int]:
    return {at for start, end in ranges for at in range(start // (RANGE // 2), -(-end // (RANGE // 2)))}


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 62)))
def test_stretches_without_data_are_left_out(data, equal):
    """Holes are never shared: without them, an almost empty disk of 15 TiB takes no time."""
    disk = Disk(data)
    runs = [(at * RANGE // 2, (at + 1) * RANGE // 2) for at in sorted(equal)]
    found = list(stretches_with_data(disk, iter(runs)))
    assert halves(iter(found)) == {at for at in equal if at // 2 in data}
    assert disk.asked <= len(data) + len(equal) + 1
