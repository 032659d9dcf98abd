"""The space that an overlay takes on disk, by hand, and the savings."""

import numpy as np
import pytest

from batchdiff.extents import Kind, from_kinds
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.overlay_options import OverlayOptions, geometry_of
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.overlay_sizes import (
    ComparedSizes,
    OverlaySize,
    disk_bytes,
    extents_to_write,
    savings_of,
)
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.layout import layout_for, plan_layout
from batchdiff.units import GIB, KIB, MIB, ceil_div

VOLUME = Volume("ext4", 4096)


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


@pytest.mark.parametrize(
    ("bits", "clusters", "expected"),
    [
        (1, 1 << 19, (1, 64 * KIB)),  # a block of 64 KiB counts 524,288 clusters
        (1, (1 << 19) + 2, (2, 64 * KIB + 4096)),  # the second block is one of them
        (1, 9, (1, 4096)),
        (64, 513, (1, 8192)),  # 8 bytes each
        (64, 8194, (2, 64 * KIB + 4096)),
    ],
)
def test_refcounts_take_space_by_their_width(bits, clusters, expected):
    geometry = Geometry(65536, refcount_bits=bits)
    blocks, refcounts = expected
    # The header, the L1 table, the refcount blocks and the refcount table are clusters too.
    layout = plan_layout(GIB, geometry, l2_tables=0, data_clusters=clusters - 3 - blocks)
    assert (layout.refcounted, layout.refcount_blocks) == (clusters, blocks)
    assert disk_bytes(layout, 0) == 3 * 4096 + refcounts


def saved(guest, overlay, volume=VOLUME):
    nothing = ComparedSizes({}, {})
    return savings_of(guest=guest, volume=volume, overlay=overlay, compared=nothing, geometry=Geometry(65536))


def test_savings_are_what_the_disk_gets_back():
    found = savings_of(
        guest=DiskUse(9 * MIB, 5 * MIB),
        volume=VOLUME,
        overlay=OverlaySize(2 * MIB, 7, MIB),
        compared=ComparedSizes({Geometry(8192): 2, Geometry(4096): 1}, {}),
        geometry=Geometry(8192),
    )
    assert found.saved_bytes == 4 * MIB
    assert (found.overlay_bytes, found.overlay_error_bytes, found.overlay_disk_bytes) == (2 * MIB, 7, MIB)
    assert found.overlay_bytes_by_cluster_size == ((4096, 1), (8192, 2))
    assert found.standard_l2_disk_bytes == found.extended_l2_disk_bytes == ()


@pytest.mark.parametrize("chosen", [False, True])
def test_savings_list_the_sizes_of_both_kinds_of_l2_entries(chosen):
    standard, extended, larger = (
        Geometry(65536),
        Geometry(65536, extended_l2=True),
        Geometry(131072, extended_l2=True),
    )
    sizes = ComparedSizes({standard: 5, larger: 7, extended: 6}, {standard: 4, larger: 3, extended: 2})
    found = savings_of(
        guest=DiskUse(9 * MIB, 5 * MIB),
        volume=VOLUME,
        overlay=OverlaySize(2 * MIB, 0, MIB),
        compared=sizes,
        geometry=extended if chosen else standard,
    )
    assert found.overlay_bytes_by_cluster_size == (((65536, 6), (131072, 7)) if chosen else ((65536, 5),))
    assert found.standard_l2_disk_bytes == ((65536, 4),)
    assert found.extended_l2_disk_bytes == ((65536, 2), (131072, 3))


def test_shared_blocks_cost_nothing():
    overlay = OverlaySize(2 * MIB, 0, MIB, shared_bytes=MIB // 2)
    assert saved(DiskUse(9 * MIB, 5 * MIB), overlay).saved_bytes == 5 * MIB - MIB // 2


def test_savings_may_be_negative():
    found = saved(DiskUse(MIB, 0), OverlaySize(2 * MIB, 0, 2 * MIB))
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
    found = saved(guest, OverlaySize(MIB, 0, MIB), volume)
    assert (found.exactness, found.note) == (Exactness.AT_LEAST, "others share it; it compresses")
    opposite = Volume("tmpfs", 4096, Exactness.AT_LEAST, "others share it")
    found = saved(guest, OverlaySize(MIB, 0, MIB), opposite)
    assert (found.exactness, found.note) == (Exactness.UNKNOWN, "others share it")
