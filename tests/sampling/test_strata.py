"""Guards sampling/strata.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.sampling.strata import doubled, first_strata


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 5000), st.integers(1, 300), st.integers(0, 6), st.integers(0, 2**32))
def test_each_stratum_has_one_of_its_own_items(population: int, wanted: int, times: int, seed: int):
    random = seeded(seed)
    strata = first_strata(population, wanted, random)
    before: set[int] = set()
    for _ in range(times + 1):
        assert strata.population == population
        assert (strata.edges[:-1] <= strata.drawn).all()
        assert (strata.drawn < strata.edges[1:]).all()
        assert strata.sizes.sum() == population
        assert before <= set(strata.drawn.tolist()), "what was read is kept"
        before = set(strata.drawn.tolist())
        strata = doubled(strata, random)


def test_doubling_ends_with_everything():
    strata, random = first_strata(1000, 10, seeded()), seeded()
    assert not strata.is_complete
    while not strata.is_complete:
        strata = doubled(strata, random)
    assert strata.drawn.tolist() == list(range(1000))


def test_a_small_population_is_drawn_at_once():
    assert first_strata(20, 10, seeded()).is_complete
    assert not first_strata(21, 10, seeded()).is_complete


def test_a_seed_gives_the_same_sample_again():
    assert first_strata(10**6, 50, seeded(7)).drawn.tolist() == first_strata(10**6, 50, seeded(7)).drawn.tolist()
    assert first_strata(10**6, 50, seeded(7)).drawn.tolist() != first_strata(10**6, 50, seeded(8)).drawn.tolist()


@pytest.mark.parametrize("times", [0, 1, 2])
def test_every_item_is_as_likely_as_any_other(times: int):
    """Of 4,000 samples of 64 items, each item is in its share, to within four standard deviations."""
    random, count = seeded(3), np.zeros(64)
    for _ in range(4000):
        strata = first_strata(64, 4, random)
        for _ in range(times):
            strata = doubled(strata, random)
        count[strata.drawn] += 1
    share = 4 * 2**times / 64
    assert abs(count - 4000 * share).max() < 4.5 * (4000 * share * (1 - share)) ** 0.5
