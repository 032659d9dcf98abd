"""Overlay sizes for every geometry, against a model that walks the disk, and the geometry that auto chooses."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchdiff.extents import Kind, empty, from_kinds
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    Compat,
    Compression,
    OverlayOptions,
    geometry_of,
)
from batchdiff.plan.overlay_rules import contradictions
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.geometry_choice import chosen_geometry, compared_sizes, geometries
from batchdiff.planning.sizes.overlay_sizes import ComparedSizes, disk_bytes, extents_to_write
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import REFCOUNT_BITS, Geometry
from batchdiff.qcow2.layout import fits, layout_for
from batchdiff.units import GIB, KIB, MIB, TIB, align_up, ceil_div

kinds_lists = st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(1, 70)), min_size=1, max_size=12).map(
    lambda runs: [kind for kind, count in runs for _ in range(count)]
)
options = st.builds(
    OverlayOptions,
    cluster_size=st.sampled_from([None, *CLUSTER_SIZES]),
    extended_l2=st.sampled_from([False, True, None]),
    refcount_bits=st.sampled_from(REFCOUNT_BITS),
).filter(lambda chosen: not list(contradictions(chosen))) | st.builds(
    OverlayOptions,
    cluster_size=st.sampled_from([None, *CLUSTER_SIZES]),
    extended_l2=st.sampled_from([False, None]),
    compat=st.just(Compat.V2),
)
fixed = options.filter(lambda chosen: chosen.cluster_size is not None and chosen.extended_l2 is not None)


def granule_kinds(kinds, virtual_size, geometry):
    """The kind of each granule: DATA, ZERO, or 0 where nothing is written."""
    found = []
    for start in range(0, virtual_size, geometry.granule):
        inside = kinds[start // UNIT : ceil_div(min(start + geometry.granule, virtual_size), UNIT)]
        both = int(np.bitwise_or.reduce(inside))
        found.append(0 if not both & 1 else both if geometry.zero_flag else Kind.DATA)
    return found


def naive_sizes(kinds, virtual_size, geometry):
    """Bytes of the overlay's file, and of the granules that hold data, by counting everything in it."""
    cluster_size, granules = geometry.cluster_size, geometry.granules
    found = granule_kinds(kinds, virtual_size, geometry)
    clusters = [found[at : at + granules] for at in range(0, len(found), granules)]
    entries = cluster_size // (16 if geometry.extended_l2 else 8)
    tables = {at // entries for at, inside in enumerate(clusters) if any(inside)}
    data = sum(Kind.DATA in inside for inside in clusters)
    l1_clusters = ceil_div(ceil_div(len(clusters), entries) * 8, cluster_size)
    blocks = table = 0
    while True:
        total = 1 + l1_clusters + len(tables) + data + blocks + table
        wanted = ceil_div(total * geometry.refcount_bits, 8 * cluster_size)
        if (blocks, table) == (wanted, ceil_div(wanted * 8, cluster_size)):
            return total * cluster_size, found.count(Kind.DATA) * geometry.granule
        blocks, table = wanted, ceil_div(wanted * 8, cluster_size)


@settings(max_examples=100)
@given(kinds_lists, st.integers(0, 7), options)
def test_sizes_are_those_of_the_model(kinds, sectors_less, chosen):
    virtual_size = len(kinds) * UNIT - sectors_less * 512
    sizes = compared_sizes(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen)
    for geometry, size in sizes.file.items():
        assert size == naive_sizes(kinds, virtual_size, geometry)[0], geometry
    assert bool(sizes.disk) is any(geometry.extended_l2 for geometry in sizes.file)
    for geometry, size in sizes.disk.items():
        extents = extents_to_write(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen, geometry)
        layout, data = layout_for(extents, virtual_size, geometry), naive_sizes(kinds, virtual_size, geometry)[1]
        assert size - disk_bytes(layout, data) in ({0} if geometry.granule >= UNIT else range(0, 64 * MIB, UNIT))


@settings(max_examples=60)
@given(kinds_lists, st.integers(0, 7), fixed)
def test_extents_to_write_are_those_of_the_model(kinds, sectors_less, chosen):
    virtual_size = len(kinds) * UNIT - sectors_less * 512
    geometry = geometry_of(chosen, chosen.cluster_size)
    found = extents_to_write(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen, geometry)
    assert found == from_kinds(np.array(granule_kinds(kinds, virtual_size, geometry), dtype=np.uint8))


def test_compressed_clusters_are_written_whole():
    chosen = OverlayOptions(cluster_size=65536, extended_l2=True, compression=Compression.ZSTD)
    kinds = [Kind.DATA] + [Kind.SAME] * 15 + [Kind.ZERO] * 16 + [Kind.SAME] * 16
    units = from_kinds(np.array(kinds, dtype=np.uint8))
    found = extents_to_write(units, len(kinds) * UNIT, chosen, geometry_of(chosen, 65536))
    assert found.runs() == [(0, 32, Kind.DATA), (32, 32, Kind.ZERO)]


def listed(virtual_size, **chosen):
    """The cluster sizes that are compared, with standard and with extended L2 entries."""
    sizes = compared_sizes(empty(), virtual_size, OverlayOptions(**chosen))
    return tuple(
        [geometry.cluster_size for geometry in sizes.file if geometry.extended_l2 is extended]
        for extended in (False, True)
    )


STANDARD, EXTENDED = list(CLUSTER_SIZES[3:]), list(CLUSTER_SIZES[5:])


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, (STANDARD, [])),
        ({"cluster_size": 512}, ([512, *STANDARD], [])),
        ({"extended_l2": True}, ([], EXTENDED)),
        ({"extended_l2": True, "cluster_size": None}, ([], EXTENDED)),
        ({"extended_l2": None}, (STANDARD, EXTENDED)),
        ({"extended_l2": None, "cluster_size": None}, (STANDARD, EXTENDED)),
        # Where extended entries are impossible, or can gain nothing, auto means standard ones.
        ({"extended_l2": None, "cluster_size": 8192}, (STANDARD, [])),
        ({"extended_l2": None, "compat": Compat.V2}, (STANDARD, [])),
        ({"extended_l2": None, "compression": Compression.ZSTD}, (STANDARD, [])),
    ],
)
def test_the_geometries_that_are_compared(chosen, expected):
    assert listed(GIB, **chosen) == expected


def test_a_cluster_size_that_cannot_map_the_disk_is_left_out():
    # An L1 table of 32 MiB: 4 Mi entries, each for 512 clusters of 4 KiB, are 8 TiB.
    assert 4096 in listed(8 * TIB)[0]
    assert 4096 not in listed(8 * TIB + 512, cluster_size=4096)[0]


def test_a_cluster_size_whose_refcounts_qemu_would_not_read_is_left_out():
    """Wide refcounts of 3 TiB of data in small clusters take more than a refcount table of 8 MiB can name."""
    units = from_kinds(np.array([Kind.DATA], dtype=np.uint8))
    units = type(units)(units.first, units.count * (3 * TIB // UNIT), units.kind)
    smallest = {
        bits: next(iter(compared_sizes(units, 3 * TIB, OverlayOptions(refcount_bits=bits)).file)).cluster_size
        for bits in (16, 64)
    }
    assert smallest == {16: 4096, 64: 8192}


def test_a_disk_that_no_cluster_size_can_map_is_refused():
    with pytest.raises(FormatError, match="no cluster size can map a disk of 4 EiB"):
        compared_sizes(empty(), 4 << 60, OverlayOptions())


def choose(sizes, cluster_size=None):
    """What auto chooses from sizes by cluster size; negative numbers stand for extended L2 entries."""
    by_geometry = {Geometry(abs(size), extended_l2=size < 0): count for size, count in sizes.items()}
    chosen = chosen_geometry(ComparedSizes(by_geometry, {}), cluster_size)
    return chosen and chosen.cluster_size * (-1 if chosen.extended_l2 else 1)


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
        ({65536: 1011, -131072: 1000}, -131072),
        ({4096: 1010, -65536: 1000}, 4096),  # every QEMU reads standard entries
        ({-16384: 1000, -131072: 1005}, -131072),
    ],
)
def test_auto_is_the_smallest_and_near_64_kib(sizes, chosen):
    assert choose(sizes) == chosen


def test_a_fixed_cluster_size_leaves_the_kind_of_l2_entries_to_auto():
    sizes = {4096: 1000, 65536: 3000, -65536: 2000}
    assert choose(sizes, 65536) == -65536
    assert choose(sizes, 4096) == 4096
    assert choose(sizes, 32768) is None


@given(
    st.dictionaries(
        st.sampled_from([*CLUSTER_SIZES, *(-size for size in EXTENDED)]), st.integers(1, 10**6), min_size=1
    )
)
def test_auto_costs_one_percent_at_most(sizes):
    assert sizes[choose(sizes)] <= min(sizes.values()) * 1.01


def kinds_of(size, *, every, length=1):
    """A guest with ``length`` changed units in ``every`` units."""
    kinds = np.full(size // UNIT, Kind.SAME, dtype=np.uint8)
    for first in range(length):
        kinds[first::every] = Kind.DATA
    return from_kinds(kinds)


def test_scattered_writes_are_cheapest_in_subclusters():
    """Small clusters need a table for every 2 MiB; large ones with subclusters need fewer, for the same data."""
    auto = OverlayOptions(cluster_size=None, extended_l2=None)
    sizes = compared_sizes(kinds_of(4 * GIB, every=512), 4 * GIB, auto)
    chosen = chosen_geometry(sizes, None)
    assert chosen.extended_l2
    assert sizes.disk[chosen] < 0.7 * min(
        size for geometry, size in sizes.disk.items() if not geometry.extended_l2
    )
    # By the length of the file, which is mostly holes, it would not have been chosen.
    assert sizes.file[chosen] > min(sizes.file.values())


def test_128_kib_with_subclusters_are_chosen_where_they_are_cheapest():
    auto = OverlayOptions(cluster_size=None, extended_l2=None)
    sizes = compared_sizes(kinds_of(16 * GIB, every=512), 16 * GIB, auto)
    assert chosen_geometry(sizes, None) == Geometry(128 * KIB, extended_l2=True)


def test_whole_clusters_of_changes_need_no_subclusters():
    auto = OverlayOptions(cluster_size=None, extended_l2=None)
    sizes = compared_sizes(kinds_of(4 * GIB, every=4096, length=1024), 4 * GIB, auto)
    assert not chosen_geometry(sizes, None).extended_l2


def test_subclusters_save_nothing_where_the_filesystem_allocates_larger_units():
    """The choice counts whole units: 4 KiB in a unit of 64 KiB take 64 KiB."""
    auto = OverlayOptions(cluster_size=64 * KIB, extended_l2=None)
    units = kinds_of(4 * GIB, every=64)
    for unit, extended in ((4 * KIB, True), (64 * KIB, False)):
        sizes = compared_sizes(units, 4 * GIB, auto, unit)
        assert chosen_geometry(sizes, 64 * KIB).extended_l2 is extended


@pytest.mark.parametrize("unit", [4 * KIB, 16 * KIB, 64 * KIB])
def test_data_on_disk_in_larger_units(unit):
    """Two subclusters of 4 KiB, 20 KiB apart, are in one unit of 32 KiB or more, or in two."""
    kinds = np.zeros(64, dtype=np.uint8)
    kinds[[32, 37]] = Kind.DATA
    geometry = Geometry(128 * KIB, extended_l2=True)
    chosen = OverlayOptions(cluster_size=128 * KIB, extended_l2=True)
    found = compared_sizes(from_kinds(kinds), 64 * UNIT, chosen, unit).disk[geometry]
    layout = layout_for(from_kinds(kinds), 64 * UNIT, geometry)
    assert found == disk_bytes(layout, (2 if unit < 32 * KIB else 1) * align_up(UNIT, unit), unit)


@settings(max_examples=60)
@given(kinds_lists, fixed)
def test_space_on_disk_is_no_more_than_the_file(kinds, chosen):
    geometry, virtual_size = geometry_of(chosen, chosen.cluster_size), len(kinds) * UNIT
    assert fits(virtual_size, geometry)
    extents = extents_to_write(from_kinds(np.array(kinds, dtype=np.uint8)), virtual_size, chosen, geometry)
    layout = layout_for(extents, virtual_size, geometry)
    found = disk_bytes(layout, extents.units(Kind.DATA) * geometry.granule)
    assert found % UNIT == 0
    assert extents.units(Kind.DATA) * geometry.granule < found <= ceil_div(layout.file_size, UNIT) * UNIT


def test_each_geometry_is_compared_once():
    for cluster_size, extended in itertools.product([None, 512, 4096, 65536], [None, False, True]):
        found = geometries(OverlayOptions(cluster_size, extended))
        assert len(found) == len(set(found))
