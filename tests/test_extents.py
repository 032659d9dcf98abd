"""Extents against the plainest model: a list with one kind a unit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchdiff import extents
from batchdiff.extents import Kind

kinds_lists = st.lists(st.sampled_from([0, 0, 0, 1, 2, 2, 3]), max_size=80)
powers_of_two = st.sampled_from([1, 2, 4, 8, 16])


def of(kinds, first=0):
    return extents.from_kinds(np.array(kinds, dtype=np.uint8), first)


def expand(item, size):
    units = [0] * size
    for first, count, kind in item.runs():
        for unit in range(first, first + count):
            assert units[unit] == 0, "runs overlap"
            units[unit] = kind
    return units


@given(kinds_lists)
def test_from_kinds_says_every_unit_once_and_merges(kinds):
    item = of(kinds)
    assert expand(item, len(kinds)) == kinds
    for (first, count, kind), (next_first, _, next_kind) in zip(item.runs(), item.runs()[1:], strict=False):
        assert first + count < next_first or kind != next_kind


@given(kinds_lists, powers_of_two)
def test_folded_is_the_or_of_the_parts(kinds, factor):
    padded = kinds + [0] * (-len(kinds) % factor)
    expected = [int(np.bitwise_or.reduce(padded[at : at + factor])) for at in range(0, len(padded), factor)]
    assert expand(extents.fold(of(kinds), factor), len(expected)) == expected


@given(kinds_lists, powers_of_two, powers_of_two)
def test_folding_in_two_steps_is_folding_in_one(kinds, one, two):
    item = of(kinds)
    assert extents.fold(extents.fold(item, one), two) == extents.fold(item, one * two)


@given(kinds_lists, powers_of_two)
def test_touched_counts_the_large_units_that_have_something(kinds, factor):
    large = {unit // factor for unit, kind in enumerate(kinds) if kind}
    assert extents.count_touched(of(kinds), factor) == len(large)


@given(kinds_lists, kinds_lists)
def test_concatenated_is_the_whole(left, right):
    whole = extents.concatenate([of(left), of(right, len(left))])
    assert whole == of(left + right)


@given(kinds_lists, st.integers(1, 8), st.integers(0, 100))
def test_split_repeats_each_unit_up_to_the_limit(kinds, factor, limit):
    small = [kind for kind in kinds for _ in range(factor)][:limit]
    assert expand(extents.split(of(kinds), factor, limit), len(small)) == small


@given(kinds_lists, st.integers(1, 9))
def test_numbers_are_the_touched_units(kinds, factor):
    touched = sorted({unit // factor for unit, kind in enumerate(kinds) if kind})
    assert extents.numbers(of(kinds), factor).tolist() == touched


@given(kinds_lists)
def test_pairs_come_back(kinds):
    item = extents.only(of(kinds), Kind.DATA, Kind.ZERO)
    again = extents.from_pairs(item.pairs(Kind.DATA), item.pairs(Kind.ZERO))
    assert again == item
    assert item.units(Kind.DATA) == kinds.count(Kind.DATA)
