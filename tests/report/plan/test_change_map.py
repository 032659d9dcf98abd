"""Where a disk differs, counted byte by byte by another way. Guards report/plan/change_map.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import guest_plan

from batchdiff.plan.runs import Runs
from batchdiff.report.plan.change_map import BINS, change_map
from batchdiff.units import MIB

UNIT = 65536


def diff(data="[]", zero="[]"):
    return guest_plan(data=Runs(data), zero=Runs(zero)).diff


def naive(runs, scale):
    """Of each bin, the share that the runs cover, in hundredths of a bin."""
    points = (np.arange(BINS * 100) + 0.5) * scale / (BINS * 100)
    covered = np.zeros(len(points), dtype=bool)
    for first, count in runs:
        covered |= (points >= first * UNIT) & (points < (first + count) * UNIT)
    return covered.reshape(BINS, 100).mean(axis=1)


@given(st.sets(st.integers(0, 127)), st.integers(128, 4000))
def test_as_counted(units, length):
    runs = [[unit, 1] for unit in sorted(units)]
    merged = []
    for first, count in runs:
        if merged and merged[-1][0] + merged[-1][1] == first:
            merged[-1][1] += count
        else:
            merged.append([first, count])
    found = change_map(diff(data=str(merged).replace(" ", "")), length * UNIT)
    assert np.abs(found.data - naive(merged, length * UNIT)).max() < 0.021
    assert found.data.sum() / BINS == pytest.approx(len(units) / length)
    assert not found.zeros.any()


def test_both_kinds_are_told_apart():
    found = change_map(diff("[[0,1]]", "[[127,1]]"), 8 * MIB)
    # A cluster of 64 KiB is 3.125 bins of a disk of 8 MiB.
    assert found.data[:4].tolist() == pytest.approx([1, 1, 1, 0.125])
    assert not found.data[4:].any()
    assert found.zeros[-4:].tolist() == pytest.approx([0.125, 1, 1, 1])
    assert not found.zeros[:-4].any()


def test_a_smaller_disk_takes_part_of_the_scale():
    found = change_map(diff("[[0,128]]"), 16 * MIB)
    assert found.data.tolist() == pytest.approx([1] * (BINS // 2) + [0] * (BINS // 2))


def test_runs_that_are_not_sorted_are_refused():
    with pytest.raises(ValueError, match="not sorted"):
        change_map(diff("[[7,1],[0,1]]"), 8 * MIB)
