"""What sums and differences of numbers are that may be off on one side."""

import itertools

import pytest

from batchdiff.image.storage.exactness import Exactness, of_difference, of_sum

TRUTHS = {
    Exactness.EXACT: {0},
    Exactness.AT_LEAST: {0, 1},
    Exactness.AT_MOST: {0, -1},
    Exactness.UNKNOWN: {0, 1, -1},
}
"""By how much the truth may be above such a number."""


def kind_of(off):
    above, below = any(each > 0 for each in off), any(each < 0 for each in off)
    return {
        (False, False): Exactness.EXACT,
        (True, False): Exactness.AT_LEAST,
        (False, True): Exactness.AT_MOST,
        (True, True): Exactness.UNKNOWN,
    }[above, below]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(Exactness, repeat=2)))
def test_all_pairs(one, other):
    assert of_sum([one, other]) is kind_of({a + b for a in TRUTHS[one] for b in TRUTHS[other]})
    assert of_difference(one, other) is kind_of({a - b for a in TRUTHS[one] for b in TRUTHS[other]})


def test_no_numbers():
    assert of_sum([]) is Exactness.EXACT
