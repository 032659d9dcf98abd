"""Layouts of new files: parts in order and disjoint, refcounts that cover the file and no more."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchdiff import extents
from batchdiff.extents import Kind
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import REFCOUNT_BITS, Geometry
from batchdiff.qcow2.header import parse
from batchdiff.qcow2.layout import fits, granules_to_write, header_for, layout_for, plan_layout

sizes = st.integers(1, 1 << 33).map(lambda sectors: sectors * 512)


@st.composite
def geometries(draw):
    bits = draw(st.integers(9, 21))
    if draw(st.booleans()):
        return Geometry(1 << bits, zero_flag=False)
    extended = bits >= 14 and draw(st.booleans())
    return Geometry(1 << bits, extended_l2=extended, refcount_bits=draw(st.sampled_from(REFCOUNT_BITS)))


@st.composite
def layouts(draw):
    geometry, virtual_size = draw(geometries()), draw(sizes)
    assume(fits(virtual_size, geometry))
    clusters = -(-virtual_size // geometry.cluster_size)
    data = draw(st.integers(0, clusters))
    tables = draw(st.integers(-(-data // geometry.l2_entries), -(-clusters // geometry.l2_entries)))
    return virtual_size, plan_layout(virtual_size, geometry, l2_tables=tables, data_clusters=data)


@given(layouts())
def test_the_parts_are_in_order_and_disjoint(drawn):
    _, layout = drawn
    cluster = layout.geometry.cluster_size
    parts = [
        (0, 1),
        (layout.l1_offset, layout.l1_clusters),
        (layout.l2_offset, layout.l2_tables),
        (layout.data_offset, layout.data_clusters),
        (layout.refcount_blocks_offset, layout.refcount_blocks),
        (layout.refcount_table_offset, layout.refcount_table_clusters),
    ]
    at = 0
    for offset, clusters in parts:
        assert offset == at
        at += clusters * cluster
    assert layout.file_size == at


@given(layouts())
def test_the_l1_table_maps_the_disk(drawn):
    virtual_size, layout = drawn
    coverage, cluster = layout.geometry.l2_coverage, layout.geometry.cluster_size
    assert (layout.l1_entries - 1) * coverage < virtual_size <= layout.l1_entries * coverage
    assert (layout.l1_clusters - 1) * cluster < layout.l1_entries * 8 <= layout.l1_clusters * cluster


@given(layouts())
def test_the_refcounts_cover_every_cluster_and_no_block_is_idle(drawn):
    _, layout = drawn
    cluster = layout.geometry.cluster_size
    clusters, a_block = layout.file_size // cluster, cluster * 8 // layout.geometry.refcount_bits
    assert (layout.refcount_blocks - 1) * a_block < clusters <= layout.refcount_blocks * a_block
    table = layout.refcount_table_clusters * cluster
    assert table - cluster < layout.refcount_blocks * 8 <= table


@given(layouts())
def test_the_header_of_a_layout_parses(drawn):
    virtual_size, layout = drawn
    assume(layout.is_readable)
    head = header_for(layout, virtual_size, backing=("/low.raw", "raw"))
    header = parse(head.ljust(layout.geometry.cluster_size, b"\0"), layout.file_size)
    assert (header.l1_offset, header.l1_entries) == (layout.l1_offset, layout.l1_entries)
    assert header.refcount_offset == layout.refcount_table_offset
    assert header.refcount_offset + header.refcount_bytes == layout.file_size
    assert (header.backing_name, header.virtual_size) == ("/low.raw", virtual_size)
    assert (header.geometry, header.version) == (layout.geometry, 3 if layout.geometry.zero_flag else 2)


@pytest.mark.parametrize(("bits", "most"), [(16, 128 << 30), (64, 32 << 30), (1, 2 << 40)])
def test_the_largest_file_that_qemu_opens(bits, most):
    """A refcount table of 8 MiB names a million blocks of 512 bytes."""
    geometry = Geometry(512, refcount_bits=bits)
    overhead = plan_layout(512, geometry, l2_tables=0, data_clusters=most // 512).file_size - most
    for less, readable in ((overhead + (1 << 20), True), (0, False)):
        layout = plan_layout(512, geometry, l2_tables=0, data_clusters=(most - less) // 512)
        assert layout.is_readable is readable
        if readable:
            header_for(layout, 512, backing=None)
        else:
            with pytest.raises(
                FormatError,
                match=r"^its refcount table would take 8[0-9]{6} bytes, more than the 8 MiB that QEMU reads",
            ):
                header_for(layout, 512, backing=None)


@pytest.mark.parametrize("zero_flag", [True, False])
def test_version_2_has_no_zero_clusters(zero_flag):
    kinds = [(0, 1, Kind.ZERO), (2, 1, Kind.DATA), (3, 1, Kind.ZERO), (4, 1, Kind.SAME)]
    geometry = Geometry(4096, zero_flag=zero_flag)
    found = granules_to_write(extents.from_runs(kinds), 4096, 5 * 4096, geometry).runs()
    zeros = Kind.ZERO if zero_flag else Kind.DATA
    assert found == extents.from_runs([(0, 1, zeros), (2, 1, Kind.DATA), (3, 1, zeros)]).runs()


@pytest.mark.parametrize(
    ("cluster", "largest"), [(512, 128 << 30), (4096, 8 << 40), (65536, 2 << 50)], ids=["512", "4k", "64k"]
)
def test_the_largest_disk_that_fits(cluster, largest):
    assert fits(largest, Geometry(cluster))
    assert not fits(largest + 512, Geometry(cluster))


@given(
    st.lists(st.sampled_from([Kind.SAME_ZERO, Kind.ZERO, Kind.DATA]), max_size=400),
    st.sampled_from([Geometry(512), Geometry(4096), Geometry(1 << 14, extended_l2=True)]),
    st.integers(0, 200),
)
def test_layout_for_counts_what_the_extents_need(kinds, geometry, first):
    runs = [(first + number, 1, kind) for number, kind in enumerate(kinds) if kind is not Kind.SAME_ZERO]
    granules = first + len(kinds) + 1
    layout = layout_for(extents.from_runs(runs), granules * geometry.granule, geometry)
    data = {number // geometry.granules for number, _, kind in runs if kind is Kind.DATA}
    touched = {number // geometry.granules // geometry.l2_entries for number, _, _ in runs}
    assert (layout.data_clusters, layout.l2_tables) == (len(data), len(touched))
