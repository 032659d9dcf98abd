"""The inverted index against a comparison of all pairs. Guards discovery/sample_index.py."""

import numpy as np
import pytest
from sampled_fleets import Fleet, samples_of


@pytest.fixture(scope="module")
def fleet():
    fleet = Fleet(1)
    fleet.new("template")
    fleet.copy("template", "near", 0.05)
    fleet.copy("template", "far", 0.5)
    fleet.new("stranger")
    fleet.new("small", used=0.01)
    fleet.disks["part"], fleet.traits["part"] = fleet.disks["template"].copy(), {}
    fleet.disks["part"][4_000:] = 0
    return fleet


def test_common_is_what_pairs_have_in_common(fleet):
    names, index, _ = fleet.sampled()
    for one in range(len(names)):
        common = index.common(index.keys[one])
        for other in range(len(names)):
            assert common[other] == len(np.intersect1d(index.keys[one], index.keys[other]))


def test_shares_are_near_the_truth_whatever_the_levels(fleet):
    names, index, _ = fleet.sampled()
    assert len(set(index.levels.tolist())) > 2
    for template, name in enumerate(names):
        shares = index.shares(template)
        for image, other in enumerate(names):
            assert shares[image] == pytest.approx(fleet.similarity(other, name), abs=0.08)


def test_the_interval_contains_the_truth(fleet):
    names, index, _ = fleet.sampled()
    template = names.index("template")
    for name in ("near", "far", "stranger", "part"):
        found = index.similarity(names.index(name), template)
        assert found.low <= fleet.similarity(name, "template") <= found.high
        assert found.high - found.low < 0.2


def test_what_was_read_in_full_is_exact():
    fleet = Fleet(2, blocks=300)
    fleet.new("a")
    fleet.copy("a", "b", 0.1)
    _, index, _ = fleet.sampled()
    found = index.similarity(1, 0)
    assert found.is_exact
    assert found.estimate == pytest.approx(fleet.similarity("b", "a"))


def test_data_bytes_are_near_the_truth(fleet):
    names, index, traits = fleet.sampled()
    for size, trait in zip(index.data_bytes, traits, strict=True):
        assert size == pytest.approx(trait.allocated, rel=0.1)
    assert len(index) == len(names)


def test_changed_bytes_are_counted_as_they_are_stored(monkeypatch):
    """Samples have their own holes. An image's data is estimated too, which counts if most of it has changed."""

    def stored(numbers):
        return 4096 * (1 + numbers * 7919 % 16)

    def with_holes(disk, most):
        samples = samples_of(disk, most)
        return samples._replace(stored=stored(samples.numbers))

    monkeypatch.setattr("sampled_fleets.samples_of", with_holes)
    inside = []
    for seed in range(20):
        fleet = Fleet(seed)
        base = fleet.new("template")
        for image, changed in enumerate((0.05, 0.5, 0.9), start=1):
            disk = fleet.copy("template", f"{changed}", changed)
            _, index, _ = fleet.sampled()
            truth = int(stored(np.flatnonzero((disk != base) & (disk != 0))).sum())
            found = index.changed_bytes(image, 0)
            inside.append(found.low <= truth <= found.high)
            assert index.changed_places(image, 0) is None
    assert sum(inside) >= 57, f"{sum(inside)} of 60"  # without the error of the data, 56


def test_changed_places_include_cleared_ones():
    fleet = Fleet(2, blocks=300)
    base = fleet.new("a")
    disk = fleet.copy("a", "b", 0.1)
    disk[np.flatnonzero(base)[:3]] = 0
    _, index, _ = fleet.sampled()
    assert index.changed_places(1, 0).tolist() == np.flatnonzero(disk != base).tolist()
