"""Guards estimation/imputed.py."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.estimation.frame import ProbeClass, joined
from batchdiff.estimation.imputed import SampledClass, impute
from batchdiff.extents import Kind
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.planning.sizes.compressed_estimate import Sample
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB

PROBE = 16 * KIB
SAME_ZERO, ZERO, SAME, DATA = Kind.SAME_ZERO, Kind.ZERO, Kind.SAME, Kind.DATA
Z, S, C, A, Q = ProbeClass


def frame(*classes: ProbeClass):
    return joined(PROBE, np.array(classes, dtype=np.uint8))


def sampled(found, kind, sizes, kinds, lengths=()) -> SampledClass:
    table = np.array(kinds, dtype=np.uint8).reshape(len(sizes), -1)
    stored = np.array(lengths, dtype=np.int32).reshape(len(sizes), -1)
    return SampledClass(found.numbers(kind), np.array(sizes), table, stored)


def test_each_probe_is_like_the_one_that_was_read_of_its_stratum():
    found = frame(Z, Q, Q, S, Q, A, Q, C)
    of_compared = sampled(found, Q, [2, 2], [[SAME, SAME, DATA, SAME], [SAME] * 4])
    of_added = sampled(found, A, [1], [[DATA, DATA, SAME_ZERO, SAME_ZERO]])
    imputed = impute(found, [of_added, of_compared])
    assert imputed.extents(4 * KIB).runs() == [
        (4, 2, SAME), (6, 1, DATA), (7, 3, SAME), (10, 1, DATA), (11, 9, SAME), (20, 2, DATA), (24, 4, SAME),
        (28, 4, ZERO),
    ]  # fmt: skip
    assert imputed.similarity.equal_bytes == (6 + 4 + 8) * 4 * KIB
    assert imputed.similarity.nonzero_bytes == (6 + 4 + 8 + 2 + 2) * 4 * KIB


def test_parts_of_one_kind_give_the_same_clusters_in_fewer_runs():
    found = frame(Q, Q)
    imputed = impute(found, [sampled(found, Q, [2], [[SAME, DATA, SAME_ZERO, SAME_ZERO]])])
    assert imputed.extents(8 * KIB).runs() == [(0, 2, DATA), (4, 2, DATA)]
    assert imputed.extents(16 * KIB).runs() == [(0, 8, DATA)]


def test_clusters_have_the_compressed_length_of_the_ones_that_were_read():
    found = frame(S, Q, Q, Q)
    imputed = impute(found, [sampled(found, Q, [1, 2], [[DATA] * 4, [DATA] * 4], [[10, 20], [30, 0]])])
    sample = Sample(ImageSource("/g", ImageFormat.RAW), Geometry(8 * KIB), (2, 3, 5, 6))
    assert imputed.compressed_lengths([sample]) == [[10, 20, 0, 30]]


@given(st.lists(st.sampled_from([Z, S, C, A, Q]), min_size=1, max_size=40), st.randoms())
def test_a_whole_sample_gives_every_unit(classes, random):
    found = frame(*classes)
    units = np.array([[random.randrange(4) for _ in range(4)] for _ in classes], dtype=np.uint8)
    whole = [
        sampled(found, kind, [1] * found.count(kind), units[found.numbers(kind)])
        for kind in (A, Q)
        if found.count(kind)
    ]
    settled = {Z: SAME_ZERO, S: SAME, C: ZERO}
    for number, kind in enumerate(classes):
        if kind in settled:
            units[number] = settled[kind]
    runs = impute(found, whole).extents(4 * KIB)
    flat = np.zeros(units.size, dtype=np.uint8)
    for first, count, kind in runs.runs():
        flat[first : first + count] = kind
    assert flat.tolist() == units.reshape(-1).tolist()
