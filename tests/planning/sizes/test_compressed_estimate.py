"""The size of compressed data from a sample, against packing every cluster."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.extents import Kind, from_runs
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.planning.sizes.compressed_estimate import Sample, stored_data, stored_lengths
from batchdiff.qcow2.cluster_packing import Packer
from batchdiff.qcow2.geometry import CompressionType, Geometry

SOURCE = ImageSource("/srv/web01.img", ImageFormat.RAW)
CLUSTER = 65536


class Guest:
    """Stands for a guest whose clusters take these lengths compressed (0: stored as they are)."""

    def __init__(self, lengths, cluster_size=CLUSTER, refcount_bits=16):
        self.lengths = np.array(lengths)
        self.cluster_size = cluster_size
        self.geometry = Geometry(cluster_size, refcount_bits=refcount_bits)
        self.measured = []

    def measure(self, samples):
        self.measured += [number for sample in samples for number in sample.clusters]
        return [self.lengths[list(sample.clusters)].tolist() for sample in samples]

    def estimate(self):
        extents = from_runs([(0, len(self.lengths), Kind.DATA)])
        return stored_data(SOURCE, extents, self.geometry, self.measure)

    @property
    def exact(self):
        packer = Packer(0, self.cluster_size, self.geometry.most_uses)
        for length in self.lengths.tolist():
            packer.place(length or None)
        return packer.end

    @property
    def exact_on_disk(self):
        """The blocks of 4 KiB that something is written to."""
        packer, blocks = Packer(0, self.cluster_size, self.geometry.most_uses), set()
        for length in self.lengths.tolist():
            offset = packer.place(length or None)
            blocks.update(range(offset // 4096, -(-(offset + (length or self.cluster_size)) // 4096)))
        return len(blocks) * 4096


def scattered(low, high, count, *, uncompressed=0.0):
    chance = np.random.default_rng(7)
    lengths = chance.integers(low, high, count)
    lengths[chance.random(count) < uncompressed] = 0
    return lengths


@given(st.lists(st.integers(0, CLUSTER - 1), max_size=512))
def test_a_sample_of_all_clusters_is_exact(lengths):
    guest = Guest(lengths)
    assert guest.estimate() == (guest.exact, 0, guest.exact_on_disk)
    assert guest.measured == list(range(len(lengths)))


@pytest.mark.parametrize(
    "guest",
    [
        Guest(scattered(20_000, 40_000, 20_000)),
        Guest(scattered(100, CLUSTER, 20_000)),
        Guest(scattered(3_000, 3_400, 20_000)),
        Guest(scattered(30_000, 34_000, 20_000, uncompressed=0.1)),
        Guest(
            scattered(
                18_000,
                22_000,
                5_000,
            ),
            2 << 20,
        ),
        Guest(np.zeros(20_000, dtype=int)),
        Guest(np.full(20_000, 777)),
    ],
    ids=["half", "all-lengths", "1-to-20", "some-uncompressed", "large-clusters", "uncompressed", "one-length"],
)
def test_an_estimate_is_within_its_error_and_within_two_percent(guest):
    estimated, error, on_disk = guest.estimate()
    assert abs(on_disk - guest.exact_on_disk) < error
    assert on_disk % 4096 == 0
    assert estimated % guest.cluster_size == 0
    assert abs(estimated - guest.exact) < error
    assert abs(estimated - guest.exact) <= 0.02 * guest.exact
    assert len(guest.measured) < len(guest.lengths)
    assert len(set(guest.measured)) == len(guest.measured)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("lengths", [scattered(100, 900, 3_000), np.tile([100, 60_000, 9_000], 1_000)])
def test_narrow_refcounts_leave_gaps_that_are_counted_exactly(bits, lengths):
    """A sample would place each cluster after another one than the overlay does."""
    guest = Guest(lengths, refcount_bits=bits)
    assert guest.estimate() == (guest.exact, 0, guest.exact_on_disk)


def test_the_more_lengths_differ_the_larger_is_the_sample():
    even, uneven = Guest(scattered(30_000, 31_000, 20_000)), Guest(scattered(1, CLUSTER, 20_000))
    even.estimate()
    uneven.estimate()
    assert len(even.measured) == 512 < len(uneven.measured)


def test_the_same_guest_gives_the_same_sample():
    one, two = (Guest(scattered(100, CLUSTER, 5_000)) for _ in range(2))
    assert one.estimate() == two.estimate()
    assert one.measured == two.measured


def test_no_data_takes_nothing():
    extents = from_runs([(0, 900, Kind.ZERO)])
    assert stored_data(SOURCE, extents, Geometry(CLUSTER), lambda samples: [[]] * len(samples)) == (0, 0, 0)


def test_only_clusters_with_data_are_compressed():
    guest = Guest(np.full(50, 100))
    extents = from_runs([(0, 3, Kind.ZERO), (3, 2, Kind.DATA), (9, 1, Kind.ZERO), (40, 1, Kind.DATA)])
    assert stored_data(SOURCE, extents, Geometry(CLUSTER), guest.measure) == (CLUSTER, 0, 4096)
    assert guest.measured == [3, 4, 40]


def test_subclusters_are_compressed_as_whole_clusters():
    guest = Guest(np.full(50, 100))
    extents = from_runs([(32, 32, Kind.DATA), (70, 1, Kind.DATA)])
    stored_data(SOURCE, extents, Geometry(CLUSTER, extended_l2=True), guest.measure)
    assert guest.measured == [1, 2]


@pytest.mark.parametrize(("kind", "fast", "small"), [(CompressionType.ZLIB, 1, 9), (CompressionType.ZSTD, 1, 19)])
def test_a_level_is_that_of_the_sample(tmp_path, kind, fast, small):
    image = tmp_path / "web01.img"
    words = np.random.default_rng(1).choice([b"guest ", b"template ", b"cluster ", b"extent "], 12_000)
    image.write_bytes(b"".join(words)[:CLUSTER])
    source = ImageSource(str(image), ImageFormat.RAW)
    geometry, extents = Geometry(CLUSTER, False, kind), from_runs([(0, 1, Kind.DATA)])
    taken = []

    def measure(samples):
        found = [stored_lengths(sample) for sample in samples]
        taken.extend(found[0])
        return found

    for level in (fast, None, small):
        stored_data(source, extents, geometry, measure, level=level)
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > taken[2]


def test_lengths_of_real_clusters(tmp_path):
    image = tmp_path / "web01.img"
    noise = np.random.default_rng(1).bytes(4096)
    image.write_bytes(bytes(4096) + noise + b"ab" * 2048 + b"c" * 512)  # the last one ends early
    source = ImageSource(str(image), ImageFormat.RAW)
    for kind in CompressionType:
        zeros, random, text, short = stored_lengths(Sample(source, Geometry(4096, False, kind), (0, 1, 2, 3)))
        assert random == 0
        assert 0 < zeros < 100
        assert 0 < text < 100
        assert 0 < short < 100
