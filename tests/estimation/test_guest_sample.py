"""The sample of a guest, without images: contents are made up, so that what they say of the whole is known.

Guards estimation/guest_sample.py, estimation/refinement.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from batchdiff.estimation.frame import ProbeClass, joined
from batchdiff.estimation.guest_sample import GuestSample, first_probes
from batchdiff.estimation.pricing import PriceRule, Pricing
from batchdiff.estimation.probe_reader import ProbeContents
from batchdiff.estimation.refinement import refine
from batchdiff.extents import Kind
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB

PROBE = 64 * KIB
PRICING = Pricing(PriceRule.WHOLE, Geometry(PROBE), 4 * KIB)


def sample_of(classes: dict[ProbeClass, int], first: int = 16, pricing: Pricing = PRICING) -> GuestSample:
    kinds = np.repeat(np.array(list(classes), dtype=np.uint8), list(classes.values()))
    return GuestSample(joined(PROBE, kinds), pricing, 10**6, np.random.default_rng(1), first)


def fill(sample: GuestSample, differs) -> None:
    """Reads what is pending: a whole probe is data if ``differs`` is true of its class and index, or the same."""
    for kind, indices in list(sample.pending()):
        data = np.array([differs(kind, index) for index in indices])
        kinds = np.where(data[:, np.newaxis], Kind.DATA, Kind.SAME).repeat(16, axis=1).astype(np.uint8)
        read, nothing = np.full(len(indices), 2 * PROBE), np.zeros(len(indices), dtype=np.int64)
        lengths = np.zeros((len(indices), 0), dtype=np.int32)
        sample.classes[kind].add(indices, ProbeContents(kinds, read, data * PROBE, nothing, lengths))


def test_each_class_is_drawn_in_proportion_and_counted_by_itself():
    sample = sample_of({ProbeClass.ADDED: 1000, ProbeClass.SHARED: 500, ProbeClass.COMPARED: 3000}, first=128)
    assert {kind: len(each.strata.drawn) for kind, each in sample.classes.items()} == {
        ProbeClass.ADDED: 32,
        ProbeClass.COMPARED: 96,
    }
    fill(sample, lambda kind, _index: kind is ProbeClass.ADDED)
    found = sample.data_bytes()
    assert found[ProbeClass.ADDED].estimate == found[ProbeClass.ADDED].high == 1000 * PROBE
    assert found[ProbeClass.COMPARED].estimate == found[ProbeClass.COMPARED].low == 0
    assert 3000 * PROBE * 0.02 < found[ProbeClass.COMPARED].high < 3000 * PROBE * 0.05
    assert sample.probes == 128
    assert sample.read_bytes == 128 * 2 * PROBE


def test_doubling_reads_only_what_is_new():
    sample = sample_of({ProbeClass.COMPARED: 500})
    assert (sample.probes, sample.read_bytes, sample.bytes_left) == (0, 0, 500 * 2 * PROBE)
    fill(sample, lambda _kind, index: index % 3 == 0)
    assert sample.bytes_left == (500 - 16) * 2 * PROBE
    sample.double(ProbeClass.COMPARED)
    ((_, indices),) = sample.pending()
    assert len(indices) == 16
    fill(sample, lambda _kind, index: index % 3 == 0)
    while not sample.is_complete:
        sample.double(ProbeClass.COMPARED)
        fill(sample, lambda _kind, index: index % 3 == 0)
    assert sample.data_bytes()[ProbeClass.COMPARED].estimate == 167 * PROBE
    assert sample.data_bytes()[ProbeClass.COMPARED].is_exact


def test_tables_that_may_be_needed():
    """Of five tables one is certain, and those of settled and equal probes are not needed."""
    classes = {ProbeClass.COMPARED: 200, ProbeClass.SHARED: 100, ProbeClass.CLEARED: 100, ProbeClass.ZEROS: 100}
    sample = sample_of(classes)
    fill(sample, lambda _kind, index: index < 100)
    assert sample.tables(100 * PROBE) == (1, 3)
    assert sample.leaves_cleared
    sample.read_cleared()
    fill(sample, lambda kind, index: kind is ProbeClass.COMPARED and index < 100)
    assert sample.tables(100 * PROBE) == (1, 2)
    while not sample.is_complete:
        sample.double(ProbeClass.COMPARED)
        fill(sample, lambda _kind, index: index < 100)
    assert sample.tables(100 * PROBE) == (1, 1)


def test_a_probe_may_need_several_tables():
    """With clusters of 512 bytes, a table maps 32 KiB."""
    sample = sample_of({ProbeClass.ADDED: 16384}, first=128)
    ((_, indices),) = list(sample.pending())
    kinds = np.full((len(indices), 16), Kind.SAME, dtype=np.uint8)
    kinds[::2, 9] = Kind.DATA  # in the second half of every other probe
    nothing, lengths = np.zeros(len(indices), dtype=np.int64), np.zeros((len(indices), 0), dtype=np.int32)
    sample.classes[ProbeClass.ADDED].add(indices, ProbeContents(kinds, nothing, nothing, nothing, lengths))
    assert sample.tables(32 * KIB) == (len(indices) // 2, 2 * 16384)
    assert sample.tables(PROBE) == (len(indices) // 2, 16384)
    small = sample_of({ProbeClass.ADDED: 20})
    fill(small, lambda _kind, _index: True)
    assert small.tables(32 * KIB) == (40, 40)


def test_a_small_guest_is_read_as_a_whole():
    sample = sample_of({ProbeClass.COMPARED: 20, ProbeClass.CLEARED: 12, ProbeClass.ZEROS: 1000})
    assert sample.is_complete
    assert not sample.leaves_cleared
    assert sample_of({ProbeClass.COMPARED: 20, ProbeClass.CLEARED: 13}).leaves_cleared


def test_cleared_probes_are_open_if_the_overlay_stores_zeros():
    pricing = replace(PRICING, geometry=Geometry(PROBE, zero_flag=False), stores_zeros=True)
    sample = sample_of({ProbeClass.COMPARED: 3000, ProbeClass.CLEARED: 1000}, first=128, pricing=pricing)
    assert {kind: len(each.strata.drawn) for kind, each in sample.classes.items()} == {
        ProbeClass.COMPARED: 96,
        ProbeClass.CLEARED: 32,
    }
    assert not sample.leaves_cleared
    fill(sample, lambda kind, _index: kind is ProbeClass.CLEARED)
    assert sample.data_bytes()[ProbeClass.CLEARED].estimate == 1000 * PROBE
    while not sample.classes[ProbeClass.COMPARED].strata.is_complete:
        sample.double(ProbeClass.COMPARED)
    assert not sample.is_complete


def test_another_pricing_reads_again():
    sample = sample_of({ProbeClass.COMPARED: 20})
    fill(sample, lambda _kind, _index: True)
    assert not list(sample.pending())
    assert (sample.read_bytes, sample.bytes_left) == (20 * 2 * PROBE, 0)
    sample.price_by(Pricing(PriceRule.WHOLE, Geometry(4 * KIB), 4 * KIB))
    assert list(sample.pending())
    assert (sample.read_bytes, sample.bytes_left) == (20 * 2 * PROBE, 20 * 2 * PROBE)
    fill(sample, lambda _kind, _index: True)
    assert sample.read_bytes == 2 * 20 * 2 * PROBE


def test_large_fleets_begin_with_fewer_probes():
    assert [first_probes(guests) for guests in (0, 1, 64, 100, 1000)] == [128, 128, 128, 81, 32]


def test_the_fewest_samples_are_doubled_with_which_the_sum_is_certain_enough():
    samples = {
        name: sample_of({ProbeClass.COMPARED: count}) for name, count in (("a", 100), ("b", 5000), ("c", 200))
    }
    for sample in samples.values():
        fill(sample, lambda _kind, index: index % 2 == 0)
    widths = {name: sample.data_bytes()[ProbeClass.COMPARED].half_width for name, sample in samples.items()}
    assert not refine(samples, 2 * widths["b"])
    assert refine(samples, 0.8 * widths["b"])
    assert [len(list(sample.pending())) for sample in samples.values()] == [0, 1, 0]
    fill(samples["b"], lambda _kind, index: index % 2 == 0)
    assert refine(samples, widths["a"] / 10)
    assert [len(list(sample.pending())) for sample in samples.values()] == [1, 1, 1]


def test_nothing_is_refined_once_all_is_known():
    sample = sample_of({ProbeClass.COMPARED: 20})
    fill(sample, lambda _kind, index: index % 2 == 0)
    assert not refine({"a": sample}, 0.0)
