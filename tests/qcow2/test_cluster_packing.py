"""Compressed clusters never lie on anything else, and stay within what the packer says is used."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from batchdiff.qcow2.cluster_packing import Packer

CLUSTER = 4096
lengths = st.lists(st.one_of(st.none(), st.integers(1, CLUSTER - 1), st.just(CLUSTER // 2)), max_size=60)


@given(lengths, st.integers(0, 3))
def test_nothing_overlaps_and_whole_clusters_are_aligned(sizes, start):
    packer = Packer(start * CLUSTER, CLUSTER)
    taken = []
    for size in sizes:
        offset = packer.place(size)
        assert offset >= start * CLUSTER
        if size is None:
            assert offset % CLUSTER == 0
        taken.append((offset, offset + (size or CLUSTER)))
    taken.sort()
    assert all(end <= following for (_, end), (following, _) in itertools.pairwise(taken))
    assert packer.end % CLUSTER == 0
    assert packer.end >= max((end for _, end in taken), default=start * CLUSTER)


def test_an_uncompressed_cluster_after_a_full_one_is_not_packed_over():
    packer = Packer(0, CLUSTER)
    assert [packer.place(size) for size in (CLUSTER // 2, CLUSTER // 2, None, 10)] == [0, 2048, 4096, 8192]


def test_small_ones_share_a_cluster_and_run_on_into_the_next():
    packer = Packer(0, CLUSTER)
    assert [packer.place(3000) for _ in range(3)] == [0, 3000, 6000]
    assert packer.end == 3 * CLUSTER
