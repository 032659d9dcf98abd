"""The layout of a new qcow2 file.

::

    | header    | LUKS header  | L1 table | L2 tables | data clusters ... | refcount blocks | refcount table |
      1 cluster   if encrypted                          data_offset         refcount_blocks_offset

The refcounts come last because their size depends on the length of the compressed data.
"""

from __future__ import annotations

from dataclasses import replace

from batchdiff.extents import Extents, Kind, count_touched, fold, of_one_kind, only, split
from batchdiff.frozen import frozen
from batchdiff.qcow2.geometry import MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, Geometry
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.header_writing import build
from batchdiff.qcow2.layout_options import PLAIN_LAYOUT, LayoutOptions
from batchdiff.units import ceil_div


@frozen
class Layout:
    """The number of clusters in each part of a file, and its options."""

    geometry: Geometry
    l1_entries: int
    l1_clusters: int
    l2_tables: int
    data_clusters: int
    refcount_blocks: int
    refcount_table_clusters: int
    options: LayoutOptions = PLAIN_LAYOUT

    @property
    def luks_offset(self) -> int:
        """Byte offset of the LUKS header, if there is one."""
        return self.geometry.cluster_size

    @property
    def l1_offset(self) -> int:
        """In bytes."""
        luks_clusters = ceil_div(self.options.luks_bytes, self.geometry.cluster_size)
        return (1 + luks_clusters) * self.geometry.cluster_size

    @property
    def l2_offset(self) -> int:
        """In bytes."""
        return self.l1_offset + self.l1_clusters * self.geometry.cluster_size

    @property
    def data_offset(self) -> int:
        """In bytes."""
        return self.l2_offset + self.l2_tables * self.geometry.cluster_size

    @property
    def refcount_blocks_offset(self) -> int:
        """In bytes."""
        return self.data_offset + self.data_clusters * self.geometry.cluster_size

    @property
    def refcount_table_offset(self) -> int:
        """In bytes."""
        return self.refcount_blocks_offset + self.refcount_blocks * self.geometry.cluster_size

    @property
    def file_size(self) -> int:
        """In bytes."""
        return self.refcount_table_offset + self.refcount_table_clusters * self.geometry.cluster_size

    @property
    def refcounted(self) -> int:
        """The number of clusters of the file, each of which has a refcount."""
        return self.file_size // self.geometry.cluster_size

    @property
    def is_readable(self) -> bool:
        """True if the refcount table is within QEMU's limit."""
        return self.refcount_table_clusters * self.geometry.cluster_size <= MAX_REFCOUNT_TABLE_BYTES


def fits(virtual_size: int, geometry: Geometry) -> bool:
    """Return whether an L1 table within QEMU's limit can map the disk."""
    return ceil_div(virtual_size, geometry.l2_coverage) * 8 <= MAX_L1_BYTES


def plan_layout(
    virtual_size: int,
    geometry: Geometry,
    *,
    l2_tables: int,
    data_clusters: int,
    options: LayoutOptions = PLAIN_LAYOUT,
) -> Layout:
    """Return the layout of an image.

    ``l2_tables`` and ``data_clusters`` are ignored if the image is preallocated. ``data_clusters`` is also ignored
    if the data is in another file.
    """
    cluster = geometry.cluster_size
    l1_entries = ceil_div(virtual_size, geometry.l2_coverage)
    l1_clusters = ceil_div(l1_entries * 8, cluster)
    if options.preallocated:
        l2_tables, data_clusters = l1_entries, ceil_div(virtual_size, cluster)
    if options.outside:
        data_clusters = 0
    luks = ceil_div(options.luks_bytes, cluster)
    blocks, table = _refcounts(1 + luks + l1_clusters + l2_tables + data_clusters, geometry)
    return Layout(geometry, l1_entries, l1_clusters, l2_tables, data_clusters, blocks, table, options)


def _refcounts(clusters: int, geometry: Geometry) -> tuple[int, int]:
    """Return the numbers of refcount blocks and of clusters of the refcount table."""
    # These clusters have refcounts themselves, so repeat until their number no longer grows.
    blocks = table = 0
    while True:
        total = clusters + blocks + table
        more_blocks = ceil_div(total, geometry.refcounts_in_block)
        more_table = ceil_div(more_blocks * 8, geometry.cluster_size)
        if (more_blocks, more_table) == (blocks, table):
            return blocks, table
        blocks, table = more_blocks, more_table


def granules_to_write(
    units: Extents, unit: int, virtual_size: int, geometry: Geometry, *, whole_clusters: bool = False
) -> Extents:
    """Return the extents that an overlay must hold, DATA and ZERO, in granules.

    ``unit``: bytes of each of the ``units``. ``whole_clusters``: allocate only whole clusters, as compression
    does. In version 2, zeros are DATA.
    """
    granule = geometry.cluster_size if whole_clusters else geometry.granule
    found = fold(units, max(granule // unit, 1))
    needed = only(found, Kind.DATA, Kind.ZERO)
    if not geometry.zero_flag:
        needed = of_one_kind(needed, Kind.DATA)
    factor = max(granule, unit) // geometry.granule
    return split(needed, factor, ceil_div(virtual_size, geometry.granule)) if factor > 1 else needed


def layout_for(
    extents: Extents, virtual_size: int, geometry: Geometry, options: LayoutOptions = PLAIN_LAYOUT
) -> Layout:
    """Return the layout of an uncompressed image that holds these extents (in granules)."""
    data = count_touched(only(extents, Kind.DATA), geometry.granules)
    tables = count_touched(extents, geometry.granules * geometry.l2_entries)
    return plan_layout(virtual_size, geometry, l2_tables=tables, data_clusters=data, options=options)


def header_for(
    layout: Layout,
    virtual_size: int,
    *,
    backing: tuple[str, str] | None,
    lazy_refcounts: bool = False,
    data_file: str | None = None,
) -> bytes:
    """Return the header of an image with this layout. ``backing``: name and format.

    :raises FormatError: as for :func:`.build`.
    """
    name, backing_format = backing or (None, None)
    luks_bytes = layout.options.luks_bytes
    return build(
        Header(
            version=3 if layout.geometry.zero_flag else 2,
            geometry=replace(layout.geometry, external_data=layout.options.outside),
            virtual_size=virtual_size,
            l1_offset=layout.l1_offset,
            l1_entries=layout.l1_entries,
            refcount_offset=layout.refcount_table_offset,
            refcount_bytes=layout.refcount_table_clusters * layout.geometry.cluster_size,
            snapshots=0,
            bitmaps=0,
            backing_name=name,
            backing_format=backing_format,
            lazy_refcounts=lazy_refcounts,
            luks_header=(layout.luks_offset, luks_bytes) if luks_bytes else None,
            data_file=data_file,
        )
    )
