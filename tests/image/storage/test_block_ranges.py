"""Ranges of a disk within others, against sets of blocks."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.image.storage.block_ranges import NO_BLOCKS, blocks_of
from batchdiff.linux.fiemap import ExtentTable

extents = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12)


def ranges(found):
    table = np.array(found, dtype=np.int64).reshape(-1, 2)
    return blocks_of(ExtentTable(table[:, 0] * 0, table[:, 0], table[:, 1], np.zeros(len(table), dtype=np.uint32)))


def numbers(found):
    return {block for start, length in found for block in range(start, start + length)}


@given(extents, extents)
def test_within(some, others):
    assert ranges(some).are_within(ranges(others)) == (numbers(some) <= numbers(others))


@given(extents)
def test_they_are_disjoint_and_sorted(some):
    found = ranges(some)
    pairs = list(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    assert {block for start, end in pairs for block in range(start, end)} == numbers(some)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(pairs))


def test_nothing_is_within_everything():
    assert NO_BLOCKS.are_within(NO_BLOCKS)
    assert NO_BLOCKS.are_within(ranges([(1, 2)]))
    assert not ranges([(1, 2)]).are_within(NO_BLOCKS)
