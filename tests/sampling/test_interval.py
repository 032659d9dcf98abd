"""Guards sampling/interval.py."""

from __future__ import annotations

import random

import pytest
from commands import rarely
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from batchdiff.sampling.interval import Interval, Probe, exactly, share_of, sum_of


def hits(text: str) -> list[Probe]:
    """One probe for each character: ``#`` is a hit."""
    return [Probe(float(letter == "#"), 1.0) for letter in text]


# From tables of the Clopper-Pearson interval.
@pytest.mark.parametrize(
    ("sample", "low", "high"),
    [
        ("." * 10, 0.0, 0.3085),
        ("." * 100, 0.0, 0.0362),
        ("." * 9 + "#", 0.0025, 0.4450),
        ("#" * 10, 0.6915, 1.0),
        ("#" * 9 + ".", 0.5550, 0.9975),
    ],
)
def test_few_hits_have_the_exact_bounds_of_a_binomial_share(sample: str, low: float, high: float):
    found = share_of(hits(sample))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert found.estimate == sample.count("#") / len(sample)


def test_no_hit_is_not_certainty():
    assert share_of(hits("." * 1000)).high == pytest.approx(3.68 / 1000, rel=0.01)


def test_clumped_units_count_as_one():
    """Of 200 probes of 16 units, whole ones differ or single units: the same share, but not as certain."""
    drawn = random.Random(1)
    whole = [Probe(16.0 * (drawn.random() < 0.25), 16.0) for _ in range(200)]
    single = [Probe(float(sum(drawn.random() < 0.25 for _ in range(16))), 16.0) for _ in range(200)]
    assert share_of(whole).half_width > 2 * share_of(single).half_width


def test_a_sample_of_everything_is_exact():
    assert share_of(hits("#..."), population=4) == exactly(0.25)
    assert share_of([], population=0) == exactly(0.0)
    assert share_of(hits("#..."), population=4).is_exact


def test_nothing_is_known_without_a_sample():
    assert share_of([]) == Interval(0.5, 0.0, 1.0)
    assert share_of([Probe(0.0, 0.0)], population=9) == Interval(0.5, 0.0, 1.0)


def test_what_was_read_is_known():
    """Of ten probes eight are known, so the share is between what they have and that with two more hits."""
    found = share_of(hits("########"), population=10)
    assert found.low >= 0.8
    assert share_of(hits("........"), population=10).high <= 0.2


def test_a_sum_is_more_certain_than_its_parts_together():
    total = sum_of([Interval(10, 7, 14), Interval(20, 16, 23), exactly(5)])
    assert total == Interval(35, 30, 40)


def test_what_is_left_has_its_bounds_the_other_way_round():
    assert Interval(10, 7, 14).subtracted_from(100) == Interval(90, 86, 93)
    assert Interval(10, 7, 14).times(2) == Interval(20, 14, 28)
    assert Interval(10, 7, 14).widened(below=1, above=2) == Interval(10, 6, 16)


@settings(max_examples=examples(30, slow=1000))
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 100)), min_size=1, max_size=300),
    st.none() | st.integers(0, 10_000),
)
def test_bounds_are_shares_around_the_estimate(parts: list[tuple[float, float]], more: int | None):
    sample = [Probe(share * of, of) for share, of in parts]
    found = share_of(sample, population=None if more is None else len(sample) + more)
    assert 0 <= found.low <= found.estimate <= found.high <= 1 + 1e-9


@pytest.mark.parametrize(
    ("share", "clump"),
    [
        (0.003, 40),
        (0.3, 1),
        *rarely((0.003, 1), (0.02, 1), (0.1, 1), (0.5, 1), (0.9, 1)),
        *rarely((0.02, 40), (0.1, 40), (0.5, 40), (0.9, 40), (0.3, 1000)),
    ],
)
def test_it_holds_for_clumps_of_any_size(share: float, clump: int):
    """Of 100 samples, each of 100 probes from 10,000 that differ in clumps, 95 or more hold the truth."""
    drawn = random.Random(f"{share} {clump}")
    held = 0
    for _ in range(100):
        differs = clumped(10_000, share, clump, drawn)
        sample = [Probe(float(differs[drawn.randrange(at, at + 100)]), 1.0) for at in range(0, 10_000, 100)]
        found = share_of(sample, population=10_000)
        held += found.low <= sum(differs) / 10_000 <= found.high
    assert held >= 88, f"{held} of 100"  # by chance, 95 % are fewer once in 1,000 times


def clumped(count: int, share: float, clump: int, drawn: random.Random) -> list[bool]:
    """Flags in runs of about ``clump``, of which about ``share`` are True."""
    flags: list[bool] = []
    while len(flags) < count:
        flags += [drawn.random() < share] * drawn.randint(max(clump // 2, 1), clump * 3 // 2)
    return flags[:count]
