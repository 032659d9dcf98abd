"""The size and savings of an overlay for every cluster size, from one scan; pure.

An uncompressed overlay's size depends only on the number of its data clusters and L2 tables, because
:mod:`batchdiff.qcow2.layout` fixes all offsets before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from batchdiff.extents import Extents, Kind, count_touched, only
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.exactness import of_difference
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    DEFAULT_CLUSTER_SIZE,
    Compression,
    OverlayOptions,
    geometry_of,
)
from batchdiff.plan.plan import Savings, Similarity
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import SMALLEST_EXTENDED_L2, Geometry
from batchdiff.qcow2.layout import Layout, fits, granules_to_write, layout_for, plan_layout
from batchdiff.units import align_up, format_size

_AUTO_TOLERANCE = 0.01
"""The share by which overlays with clusters nearer to QEMU's default size can be larger than the smallest one."""


def extents_to_write(units: Extents, virtual_size: int, options: OverlayOptions, geometry: Geometry) -> Extents:
    """Return the extents of an overlay with these options, in its granules."""
    compresses = options.compression is not Compression.NONE
    return granules_to_write(units, UNIT, virtual_size, geometry, whole_clusters=compresses)


def sizes_by_cluster_size(units: Extents, virtual_size: int, options: OverlayOptions) -> dict[int, int]:
    """Return the bytes of the uncompressed overlay for each cluster size that can map a disk of this size.

    Sizes below 4 KiB are left out unless one is asked for: differences are found in units of 4 KiB, so smaller
    clusters would only add tables.

    :raises FormatError: no cluster size can map the disk.
    """
    least = least_cluster_size(options)
    parts = _Parts(
        differing=only(units, Kind.ZERO, Kind.DATA),
        nonzero=only(units, Kind.SAME, Kind.DATA),
        either=units,
    )
    sizes = {}
    for cluster_size in CLUSTER_SIZES:
        geometry = geometry_of(options, cluster_size)
        if (cluster_size >= least or cluster_size == options.cluster_size) and fits(virtual_size, geometry):
            # Clusters of whole units are only counted. Subclusters and clusters below a unit need extents.
            if geometry.granules == 1 and cluster_size >= UNIT:
                layout = _counted(parts, virtual_size, geometry)
            else:
                extents = granules_to_write(units, UNIT, virtual_size, geometry)
                layout = layout_for(extents, virtual_size, geometry)
            sizes[cluster_size] = layout.file_size
    if not sizes:
        raise FormatError(f"no cluster size can map a disk of {format_size(virtual_size)}")
    return sizes


@dataclass(frozen=True, slots=True)
class _Parts:
    """The units of a guest that differ from the template's, those that are nonzero, and those that are either."""

    differing: Extents
    nonzero: Extents
    either: Extents


def _counted(parts: _Parts, virtual_size: int, geometry: Geometry) -> Layout:
    """Return the layout of an overlay in whole clusters by counting: folding would take three times as long.

    A cluster has data if any unit in it differs and any unit in it, the same or another, is nonzero.
    """
    factor = geometry.cluster_size // UNIT
    data = (
        count_touched(parts.differing, factor)
        + count_touched(parts.nonzero, factor)
        - count_touched(parts.either, factor)
    )
    tables = count_touched(parts.differing, factor * geometry.l2_entries)
    return plan_layout(virtual_size, geometry, l2_tables=tables, data_clusters=data)


def least_cluster_size(options: OverlayOptions) -> int:
    """Return the smallest cluster size to consider, unless a smaller one is asked for."""
    return SMALLEST_EXTENDED_L2 if options.extended_l2 else UNIT


def chosen_cluster_size(sizes: dict[int, int]) -> int:
    """Choose the cluster size for ``auto``: of those within 1 % of the smallest overlay, the nearest to 64 KiB."""
    bound = min(sizes.values()) * (1 + _AUTO_TOLERANCE)
    near = [cluster_size for cluster_size, size in sizes.items() if size <= bound]
    default_bits = DEFAULT_CLUSTER_SIZE.bit_length()
    return min(near, key=lambda cluster_size: (abs(cluster_size.bit_length() - default_bits), cluster_size))


def disk_bytes(layout: Layout, data: int, unit: int = UNIT) -> int:
    """Return an overlay's bytes on disk, in units of the filesystem; its data clusters take ``data`` of them.

    This is less than the file's size: tables end before their last cluster does, and data clusters have holes. If
    a unit holds several clusters, something is written in each unit, so all units are taken.
    """
    cluster, entries_per_block = layout.geometry.cluster_size, layout.geometry.cluster_size // 2
    if cluster < unit:
        return align_up(layout.file_size, unit)
    last_block = layout.refcounted % entries_per_block or entries_per_block
    return (
        unit
        + align_up(layout.l1_entries * 8, unit)
        + layout.l2_tables * cluster
        + align_up(data, unit)
        + (layout.refcount_blocks - 1) * cluster
        + align_up(last_block * 2, unit)
        + align_up(layout.refcount_blocks * 8, unit)
    )


@dataclass(frozen=True, slots=True)
class OverlayContent:
    """The content of an overlay, in granules, and the file's size with each cluster size."""

    cluster_size: int
    extents: Extents
    sizes: dict[int, int]
    similarity: Similarity | None


class OverlaySize(NamedTuple):
    """Bytes of an overlay's file, the largest error of that number, and its bytes on disk."""

    file_bytes: int
    error_bytes: int
    disk_bytes: int


def savings_of(
    *,
    guest: DiskUse,
    volume: Volume,
    overlay: OverlaySize,
    sizes: dict[int, int],
    shared: int = 0,
) -> Savings:
    """Return the savings of one guest.

    ``volume``: the overlay's filesystem. ``shared``: the overlay's bytes on disk in blocks that files other than
    the guest use anyway, so they cost nothing.
    """
    return Savings(
        allocated_bytes=guest.allocated,
        reclaimable_bytes=guest.reclaimable,
        overlay_bytes=overlay.file_bytes,
        overlay_error_bytes=overlay.error_bytes,
        overlay_disk_bytes=overlay.disk_bytes,
        saved_bytes=guest.reclaimable - (overlay.disk_bytes - shared),
        overlay_bytes_by_cluster_size=tuple(sorted(sizes.items())),
        allocation_unit=volume.unit,
        exactness=of_difference(guest.exactness, volume.exactness),
        note="; ".join(dict.fromkeys(filter(None, (guest.note, volume.note)))),
    )
