"""The offsets of samples: strata, levels that are nested, and no pattern. Guards discovery/sample_offsets.py."""

import numpy as np
import pytest

from batchdiff.discovery.sample_offsets import chosen_probes, levels_of


@pytest.mark.parametrize("level", [0, 1, 5, 9])
def test_each_cell_has_one_probe_of_its_own(level):
    cells = np.arange(300)
    assert (chosen_probes(cells, level) >> level == cells).all()


def test_a_higher_level_chooses_among_the_lower_ones():
    for level in range(1, 12):
        lower = chosen_probes(np.arange(1 << 12 - level + 1), level - 1)
        assert np.isin(chosen_probes(np.arange(1 << 12 - level), level), lower).all()


def test_the_level_of_a_probe_is_the_highest_that_chooses_it():
    levels = levels_of(np.arange(1 << 12))
    for level in range(13):
        chosen = chosen_probes(np.arange(1 << 12 - level), level)
        assert (np.flatnonzero(levels >= level) == chosen).all()


def test_every_place_in_a_cell_is_as_likely():
    """Otherwise what a guest writes at regular distances would be seen always, or never."""
    places = chosen_probes(np.arange(64_000), 4) % 16
    counts = np.bincount(places, minlength=16)
    assert counts.min() > 3_700
    assert counts.max() < 4_300
