"""Overlay sizes for every cluster size, against a model that walks the disk cluster by cluster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchdiff.extents import Kind, empty, from_kinds
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.overlay_options import CLUSTER_SIZES, Compression, OverlayOptions, geometry_of
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.overlay_sizes import (
    OverlaySize,
    chosen_cluster_size,
    disk_bytes,
    extents_to_write,
    savings_of,
    sizes_by_cluster_size,
)
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.layout import fits, layout_for
from batchdiff.units import GIB, KIB, MIB, TIB, ceil_div

VOLUME = Volume("ext4", 4096)

kinds_lists = st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(1, 70)), min_size=1, max_size=12).map(
    lambda runs: [kind for kind, count in runs for _ in range(count)]
)
options = st.builds(
    OverlayOptions, cluster_size=st.sampled_from([None, *CLUSTER_SIZES]), extended_l2=st.booleans()
).filter(lambda chosen: not chosen.extended_l2 or chosen.cluster_size is None or chosen.cluster_size >= 16384)


def granule_kinds(kinds, virtual_size, granule):
    """The kind of each granule: DATA, ZERO, or 0 where nothing is written."""
    found = []
    for start in range(0, virtual_size, granule):
        inside = kinds[start // UNIT : ceil_div(min(start + granule, virtual_size), UNIT)]
        both = int(np.bitwise_or.reduce(inside))
        found.append(both if both & 1 else 0)
    return found


def naive_size(kinds, virtual_size, cluster_size, extended):
    """Bytes of the overlay's file by counting everything in it."""
    granules = 32 if extended else 1
    found = granule_kinds(kinds, virtual_size, cluster_size // granules)
    clusters = [found[at : at + granules] for at in range(0, len(found), granules)]
    entries = cluster_size // (16 if extended else 8)
    tables = {at // entries for at, inside in enumerate(clusters) if any(inside)}
    data = sum(Kind.DATA in inside for inside in clusters)
    l1_clusters = ceil_div(ceil_div(len(clusters), entries) * 8, cluster_size)
    blocks = table = 0
    while True:
        total = 1 + l1_clusters + len(tables) + data + blocks + table
        wanted = ceil_div(total * 2, cluster_size)
        if (blocks, table) == (wanted, ceil_div(wanted * 8, cluster_size)):
            return total * cluster_size
        blocks, table = wanted, ceil_div(wanted * 8, cluster_size)


@settings(max_examples=60)
@given(kinds_lists, st.integers(0, 7), options)
def test_sizes_are_those_of_the_model(kinds, sectors_less, chosen):
    virtual_size = len(kinds) * UNIT - sectors_less * 512
    sizes = sizes_by_cluster_size(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen)
    for cluster_size, size in sizes.items():
        assert size == naive_size(kinds, virtual_size, cluster_size, chosen.extended_l2), cluster_size


@settings(max_examples=60)
@given(kinds_lists, st.integers(0, 7), options.filter(lambda chosen: chosen.cluster_size is not None))
def test_extents_to_write_are_those_of_the_model(kinds, sectors_less, chosen):
    virtual_size = len(kinds) * UNIT - sectors_less * 512
    geometry = geometry_of(chosen, chosen.cluster_size)
    found = extents_to_write(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen, geometry)
    assert found == from_kinds(np.array(granule_kinds(kinds, virtual_size, geometry.granule), dtype=np.uint8))


def test_compressed_clusters_are_written_whole():
    chosen = OverlayOptions(cluster_size=65536, extended_l2=True, compression=Compression.ZSTD)
    kinds = [Kind.DATA] + [Kind.SAME] * 15 + [Kind.ZERO] * 16 + [Kind.SAME] * 16
    units = from_kinds(np.array(kinds, dtype=np.uint8))
    found = extents_to_write(units, len(kinds) * UNIT, chosen, geometry_of(chosen, 65536))
    assert found.runs() == [(0, 32, Kind.DATA), (32, 32, Kind.ZERO)]


def test_the_cluster_sizes_that_are_listed():
    assert list(sizes_by_cluster_size(empty(), GIB, OverlayOptions())) == list(CLUSTER_SIZES[3:])
    assert 512 in sizes_by_cluster_size(empty(), GIB, OverlayOptions(cluster_size=512))
    assert 1024 not in sizes_by_cluster_size(empty(), GIB, OverlayOptions(cluster_size=512))
    assert min(sizes_by_cluster_size(empty(), GIB, OverlayOptions(extended_l2=True))) == 16384


def test_a_cluster_size_that_cannot_map_the_disk_is_left_out():
    # An L1 table of 32 MiB: 4 Mi entries, each for 512 clusters of 4 KiB, are 8 TiB.
    assert 4096 in sizes_by_cluster_size(empty(), 8 * TIB, OverlayOptions())
    assert 4096 not in sizes_by_cluster_size(empty(), 8 * TIB + 512, OverlayOptions(cluster_size=4096))


def test_a_disk_that_no_cluster_size_can_map_is_refused():
    with pytest.raises(FormatError, match="no cluster size can map a disk of 4 EiB"):
        sizes_by_cluster_size(empty(), 4 << 60, OverlayOptions())


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ({4096: 1000, 65536: 5000, 2097152: 9000}, 4096),
        ({4096: 1000, 65536: 1010, 2097152: 9000}, 65536),
        ({4096: 1000, 65536: 1011, 2097152: 9000}, 4096),
        ({32768: 1000, 65536: 1011, 131072: 1000}, 32768),  # as near: the smaller clusters
        ({16384: 1005, 65536: 1011, 131072: 1000}, 131072),
        ({2097152: 7}, 2097152),
        (dict.fromkeys(CLUSTER_SIZES, 0), 65536),
    ],
)
def test_auto_is_the_smallest_and_near_64_kib(sizes, chosen):
    assert chosen_cluster_size(sizes) == chosen


@given(st.dictionaries(st.sampled_from(CLUSTER_SIZES), st.integers(1, 10**6), min_size=1))
def test_auto_costs_one_percent_at_most(sizes):
    assert sizes[chosen_cluster_size(sizes)] <= min(sizes.values()) * 1.01


def test_space_on_disk_by_hand():
    # Header 4 KiB, L1 table 4 KiB (of 64), 1 L2 table, 2 data clusters, refcount block and table 4 KiB each.
    units = from_kinds(np.array([Kind.DATA] * 17, dtype=np.uint8))
    chosen = OverlayOptions()
    geometry = geometry_of(chosen, 65536)
    extents = extents_to_write(units, GIB, chosen, geometry)
    layout = layout_for(extents, GIB, geometry)
    assert disk_bytes(layout, extents.units(Kind.DATA) * 64 * KIB) == 4 * 4 * KIB + 3 * 64 * KIB
    assert disk_bytes(layout, 120 * KIB - 1) == 4 * 4 * KIB + 64 * KIB + 120 * KIB


@pytest.mark.parametrize(("cluster_size", "less"), [(4096, 3 * 4 * KIB), (2048, 0)])
def test_blocks_that_the_data_does_not_take(cluster_size, less):
    """In clusters of a block or more the tables and the data count by themselves; smaller ones share blocks."""
    units = from_kinds(np.array([Kind.DATA] * 17, dtype=np.uint8))
    geometry = geometry_of(OverlayOptions(), cluster_size)
    extents = extents_to_write(units, GIB, OverlayOptions(), geometry)
    layout = layout_for(extents, GIB, geometry)
    data = extents.units(Kind.DATA) * cluster_size
    whole = ceil_div(layout.file_size, UNIT) * UNIT
    assert disk_bytes(layout, data) == whole
    assert disk_bytes(layout, data - 3 * 4 * KIB) == whole - less


@settings(max_examples=60)
@given(kinds_lists, options.filter(lambda chosen: chosen.cluster_size is not None))
def test_space_on_disk_is_no_more_than_the_file(kinds, chosen):
    geometry, virtual_size = geometry_of(chosen, chosen.cluster_size), len(kinds) * UNIT
    assert fits(virtual_size, geometry)
    extents = extents_to_write(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen, geometry)
    layout = layout_for(extents, virtual_size, geometry)
    found = disk_bytes(layout, extents.units(Kind.DATA) * geometry.granule)
    assert found % UNIT == 0
    assert extents.units(Kind.DATA) * geometry.granule < found <= ceil_div(layout.file_size, UNIT) * UNIT


def test_savings_are_what_the_disk_gets_back():
    found = savings_of(
        guest=DiskUse(9 * MIB, 5 * MIB),
        volume=VOLUME,
        overlay=OverlaySize(2 * MIB, 7, MIB),
        sizes={8192: 2, 4096: 1},
    )
    assert found.saved_bytes == 4 * MIB
    assert (found.overlay_bytes, found.overlay_error_bytes, found.overlay_disk_bytes) == (2 * MIB, 7, MIB)
    assert found.overlay_bytes_by_cluster_size == ((4096, 1), (8192, 2))


def test_savings_may_be_negative():
    found = savings_of(guest=DiskUse(MIB, 0), volume=VOLUME, overlay=OverlaySize(2 * MIB, 0, 2 * MIB), sizes={})
    assert found.saved_bytes == -2 * MIB


def test_space_in_larger_units():
    """Clusters of 64 KiB in units of 16 KiB: each table ends with a unit; of 128 KiB: the file has no holes."""
    units = from_kinds(np.array([Kind.DATA] * 17, dtype=np.uint8))
    geometry = geometry_of(OverlayOptions(), 65536)
    layout = layout_for(extents_to_write(units, GIB, OverlayOptions(), geometry), GIB, geometry)
    assert disk_bytes(layout, 96 * KIB, 16 * KIB) == 4 * 16 * KIB + 64 * KIB + 96 * KIB
    assert layout.file_size == 7 * 64 * KIB
    assert disk_bytes(layout, 96 * KIB, 128 * KIB) == 8 * 64 * KIB


def test_savings_are_as_exact_as_what_they_are_made_of():
    guest = DiskUse(9 * MIB, 5 * MIB, Exactness.AT_LEAST, "others share it")
    volume = Volume("btrfs", 4096, Exactness.AT_MOST, "it compresses")
    found = savings_of(guest=guest, volume=volume, overlay=OverlaySize(MIB, 0, MIB), sizes={})
    assert (found.exactness, found.note) == (Exactness.AT_LEAST, "others share it; it compresses")
    opposite = Volume("tmpfs", 4096, Exactness.AT_LEAST, "others share it")
    found = savings_of(guest=guest, volume=opposite, overlay=OverlaySize(MIB, 0, MIB), sizes={})
    assert (found.exactness, found.note) == (Exactness.UNKNOWN, "others share it")
