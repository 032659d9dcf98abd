"""Compressed clusters never lie on anything else, and stay within what the packer says is used."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchdiff.qcow2.cluster_packing import Packer

CLUSTER = 4096
lengths = st.lists(st.one_of(st.none(), st.integers(1, CLUSTER - 1), st.just(CLUSTER // 2)), max_size=60)


MANY = (1 << 16) - 1


@given(lengths, st.integers(0, 3), st.sampled_from([1, 3, 15, MANY]))
def test_nothing_overlaps_and_whole_clusters_are_aligned(sizes, start, most_uses):
    packer = Packer(start * CLUSTER, CLUSTER, most_uses)
    taken = []
    for size in sizes:
        offset = packer.place(size)
        assert offset >= start * CLUSTER
        if size is None:
            assert offset % CLUSTER == 0
        taken.append((offset, offset + (size or CLUSTER)))
    uses = Counter(cluster for offset, end in taken for cluster in range(offset // CLUSTER, -(-end // CLUSTER)))
    assert max(uses.values(), default=1) <= most_uses
    taken.sort()
    assert all(end <= following for (_, end), (following, _) in itertools.pairwise(taken))
    assert packer.end % CLUSTER == 0
    assert packer.end >= max((end for _, end in taken), default=start * CLUSTER)


def test_an_uncompressed_cluster_after_a_full_one_is_not_packed_over():
    packer = Packer(0, CLUSTER, MANY)
    assert [packer.place(size) for size in (CLUSTER // 2, CLUSTER // 2, None, 10)] == [0, 2048, 4096, 8192]


def test_small_ones_share_a_cluster_and_run_on_into_the_next():
    packer = Packer(0, CLUSTER, MANY)
    assert [packer.place(3000) for _ in range(3)] == [0, 3000, 6000]
    assert packer.end == 3 * CLUSTER


def test_a_cluster_is_used_as_often_as_its_refcount_can_count():
    packer = Packer(0, CLUSTER, 3)
    assert [packer.place(size) for size in (10, 10, 10, 10, None, 10)] == [0, 10, 20, 4096, 8192, 4106]


def test_one_that_runs_on_counts_in_both_clusters():
    packer = Packer(0, CLUSTER, 3)
    # The third is the last one that begins in the first cluster, and the first one in the second cluster.
    assert [packer.place(1500) for _ in range(6)] == [0, 1500, 3000, 4500, 6000, 8192]


def test_with_refcounts_of_one_bit_no_cluster_is_shared():
    packer = Packer(0, CLUSTER, 1)
    assert [packer.place(size) for size in (10, None, 4095, 10)] == [0, 4096, 8192, 12288]
