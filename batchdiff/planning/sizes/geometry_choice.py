"""The choice of an overlay's cluster size and kind of L2 entries, by the size of the overlay with each.

::

    128 KiB, standard L2 entries     | data, all of it      |     length 128 KiB, on disk 128 KiB
    128 KiB, extended L2 entries     | hole |data| hole     |     length 128 KiB, on disk   4 KiB

The length of the file decides. If any geometry has subclusters, the space on disk decides instead, because
unwritten ones stay holes; likewise if there is a data file, because that is always as long as the disk.
"""

from __future__ import annotations

import dataclasses

from batchdiff.extents import Extents, Kind, count_touched, only
from batchdiff.foreign.qed_layout import fits_qed, qed_layout
from batchdiff.frozen import frozen
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    DEFAULT_CLUSTER_SIZE,
    QED_CLUSTER_SIZES,
    Compat,
    Compression,
    OverlayFormat,
    OverlayOptions,
    geometry_of,
    layout_options_of,
)
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.overlay_sizes import ComparedSizes, disk_bytes
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import SMALLEST_EXTENDED_L2, Geometry
from batchdiff.qcow2.layout import Layout, fits, granules_to_write, layout_for, plan_layout
from batchdiff.qcow2.layout_options import LayoutOptions
from batchdiff.units import format_size

_AUTO_TOLERANCE = 0.01


def compared_sizes(units: Extents, virtual_size: int, options: OverlayOptions, unit: int = UNIT) -> ComparedSizes:
    """Return the overlay's sizes with each of the :func:`geometries` that can map the disk.

    ``units``: in units of 4 KiB. ``unit``: the filesystem's allocation unit, in bytes.

    :raises FormatError: no geometry can map the disk.
    """
    if options.format is OverlayFormat.QED:
        return _qed_sizes(units, virtual_size, options)
    needs = layout_options_of(options)
    inside = needs._replace(outside=False)
    parts = _Parts(
        differing=only(units, Kind.ZERO, Kind.DATA),
        nonzero=only(units, Kind.SAME, Kind.DATA),
        either=units,
    )
    sizes, compared = ComparedSizes({}, {}), geometries(options)
    by_disk = needs.outside or any(geometry.extended_l2 for geometry in compared)
    for geometry in (each for each in compared if fits(virtual_size, each)):
        # Clusters of whole units need only be counted; subclusters and smaller clusters need extents.
        if geometry.granules == 1 and geometry.cluster_size >= UNIT:
            layout = _counted(parts, virtual_size, geometry, inside)
            data = layout.data_clusters * geometry.cluster_size
        else:
            extents = granules_to_write(units, UNIT, virtual_size, geometry)
            layout = layout_for(extents, virtual_size, geometry, inside)
            data = _data_bytes(extents, layout, unit, compressed=options.compression is not Compression.NONE)
        if needs.outside:
            tables = layout.l2_tables
            layout = plan_layout(virtual_size, geometry, l2_tables=tables, data_clusters=0, options=needs)
        if layout.is_readable:
            sizes.file[geometry] = layout.file_size + (virtual_size if needs.outside else 0)
            if by_disk:
                sizes.disk[geometry] = disk_bytes(layout, data, unit)
    if not sizes.file:
        raise FormatError(f"no cluster size can map a disk of {format_size(virtual_size)}")
    return sizes


def _qed_sizes(units: Extents, virtual_size: int, options: OverlayOptions) -> ComparedSizes:
    sizes = ComparedSizes({}, {})
    for geometry in geometries(options):
        if fits_qed(virtual_size, geometry.cluster_size, options.table_size):
            extents = granules_to_write(units, UNIT, virtual_size, geometry)
            layout = qed_layout(extents, virtual_size, geometry.cluster_size, options.table_size)
            sizes.file[geometry] = layout.file_size
    if not sizes.file:
        raise FormatError(f"no cluster size can map a disk of {format_size(virtual_size)}")
    return sizes


def geometries(options: OverlayOptions) -> list[Geometry]:
    """Return the geometries to compare, even those with a cluster size that the options do not choose."""
    if options.format is OverlayFormat.QED:
        return [geometry_of(options, cluster_size) for cluster_size in QED_CLUSTER_SIZES]
    # Differences are found in units of 4 KiB, so smaller clusters would only add tables.
    return [
        geometry_of(dataclasses.replace(options, extended_l2=extended), cluster_size)
        for extended in _l2_kinds(options)
        for cluster_size in CLUSTER_SIZES
        if cluster_size >= (SMALLEST_EXTENDED_L2 if extended else UNIT) or cluster_size == options.cluster_size
    ]


def _l2_kinds(options: OverlayOptions) -> tuple[bool, ...]:
    if options.extended_l2 is not None:
        return (options.extended_l2,)
    # Compressed clusters have no subclusters: extended entries would only make the tables longer.
    possible = options.compat is Compat.V3 and options.compression is Compression.NONE
    large_enough = options.cluster_size is None or options.cluster_size >= SMALLEST_EXTENDED_L2
    return (False, True) if possible and large_enough else (False,)


def _data_bytes(extents: Extents, layout: Layout, unit: int, *, compressed: bool) -> int:
    geometry, data = layout.geometry, only(extents, Kind.DATA)
    if compressed or geometry.granules == 1:
        return layout.data_clusters * geometry.cluster_size
    per_unit = max(unit // geometry.granule, 1)
    granules = count_touched(data, per_unit) * per_unit if per_unit > 1 else data.units(Kind.DATA)
    return granules * geometry.granule


@frozen
class _Parts:
    differing: Extents
    nonzero: Extents
    either: Extents


def _counted(parts: _Parts, virtual_size: int, geometry: Geometry, options: LayoutOptions) -> Layout:
    """Lay out an overlay in whole clusters by counting: folding would take three times as long.

    A cluster has data if a unit in it differs and a unit in it, not necessarily the same one, is nonzero. In
    version 2, which has no zero clusters, a unit that differs is enough.
    """
    factor = geometry.cluster_size // UNIT
    differing = count_touched(parts.differing, factor)
    data = differing + count_touched(parts.nonzero, factor) - count_touched(parts.either, factor)
    if not geometry.zero_flag:
        data = differing
    tables = count_touched(parts.differing, factor * geometry.l2_entries)
    return plan_layout(virtual_size, geometry, l2_tables=tables, data_clusters=data, options=options)


def chosen_geometry(sizes: ComparedSizes, cluster_size: int | None) -> Geometry | None:
    """Choose a geometry with this cluster size (None: any); return None if no such geometry can map the disk.

    Among those whose overlay is at most 1% larger than the smallest, prefer standard L2 entries, which every QEMU
    reads, and then the cluster size nearest to 64 KiB.
    """
    allowed = {
        geometry: size
        for geometry, size in sizes.decisive.items()
        if cluster_size in {None, geometry.cluster_size}
    }
    if not allowed:
        return None
    bound = min(allowed.values()) * (1 + _AUTO_TOLERANCE)
    return min((geometry for geometry, size in allowed.items() if size <= bound), key=_preference)


def _preference(geometry: Geometry) -> tuple[bool, int, int]:
    distance = abs(geometry.cluster_size.bit_length() - DEFAULT_CLUSTER_SIZE.bit_length())
    return geometry.extended_l2, distance, geometry.cluster_size
