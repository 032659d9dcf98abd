"""Layouts of new files: parts in order and disjoint, refcounts that cover the file and no more."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchdiff import extents
from batchdiff.extents import Kind
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.header import parse
from batchdiff.qcow2.layout import REFCOUNT_BYTES, fits, header_for, layout_for, plan_layout

sizes = st.integers(1, 1 << 33).map(lambda sectors: sectors * 512)


@st.composite
def geometries(draw):
    bits = draw(st.integers(9, 21))
    return Geometry(1 << bits, extended_l2=bits >= 14 and draw(st.booleans()))


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
    clusters, a_block = layout.file_size // cluster, cluster // REFCOUNT_BYTES
    assert (layout.refcount_blocks - 1) * a_block < clusters <= layout.refcount_blocks * a_block
    table = layout.refcount_table_clusters * cluster
    assert table - cluster < layout.refcount_blocks * 8 <= table


@given(layouts())
def test_the_header_of_a_layout_parses(drawn):
    virtual_size, layout = drawn
    head = header_for(layout, virtual_size, backing=("/low.raw", "raw"))
    header = parse(head.ljust(layout.geometry.cluster_size, b"\0"), layout.file_size)
    assert (header.l1_offset, header.l1_entries) == (layout.l1_offset, layout.l1_entries)
    assert header.refcount_offset == layout.refcount_table_offset
    assert header.refcount_offset + header.refcount_bytes == layout.file_size
    assert (header.backing_name, header.virtual_size) == ("/low.raw", virtual_size)


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
