"""The content of an overlay, the size of its file, its space on disk, and its savings."""

from __future__ import annotations

from typing import NamedTuple

from batchdiff.extents import Extents
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.allocation_units import Volume
from batchdiff.image.storage.exactness import of_difference
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.plan.plan import Savings
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.layout import Layout, granules_to_write
from batchdiff.units import align_up, ceil_div


def extents_to_write(units: Extents, virtual_size: int, options: OverlayOptions, geometry: Geometry) -> Extents:
    """Return the extents of an overlay, in its granules. ``units``: the guest's extents, in units of 4 KiB."""
    compresses = options.compression is not Compression.NONE
    return granules_to_write(units, UNIT, virtual_size, geometry, whole_clusters=compresses)


def disk_bytes(layout: Layout, data: int, unit: int = UNIT) -> int:
    """Return an overlay's bytes on disk, each part rounded up to whole units.

    ``data``: the bytes that its data clusters take.

    If a unit holds several clusters, all units of the file count, even if they are holes.
    """
    cluster, entries_per_block = layout.geometry.cluster_size, layout.geometry.refcounts_in_block
    if cluster < unit:
        return align_up(layout.file_size, unit) + (align_up(data, unit) if layout.options.outside else 0)
    last_block = layout.refcounted % entries_per_block or entries_per_block
    return (
        unit
        + align_up(layout.l1_entries * 8, unit)
        + layout.l2_tables * cluster
        + align_up(data, unit)
        + (layout.refcount_blocks - 1) * cluster
        + align_up(ceil_div(last_block * layout.geometry.refcount_bits, 8), unit)
        + align_up(layout.refcount_blocks * 8, unit)
    )


class OverlaySize(NamedTuple):
    """The size of an overlay, including its data file, and the possible error of ``file_bytes``.

    ``shared_bytes``: in blocks that cost nothing, because files other than the guest use them anyway.
    """

    file_bytes: int
    error_bytes: int
    disk_bytes: int
    shared_bytes: int = 0


class ComparedSizes(NamedTuple):
    """The sizes of an uncompressed overlay in bytes, by geometry.

    ``file``: the length, including that of a data file. ``disk``: the space on disk if the guest's data has no
    holes; empty if ``file`` decides.
    """

    file: dict[Geometry, int]
    disk: dict[Geometry, int]

    @property
    def decisive(self) -> dict[Geometry, int]:
        """The sizes by which ``auto`` chooses."""
        return self.disk or self.file


def savings_of(
    *,
    guest: DiskUse,
    volume: Volume,
    overlay: OverlaySize,
    compared: ComparedSizes,
    geometry: Geometry,
) -> Savings:
    """Return the savings of one guest. ``volume``: the overlay's filesystem."""
    return Savings(
        allocated_bytes=guest.allocated,
        reclaimable_bytes=guest.reclaimable,
        overlay_bytes=overlay.file_bytes,
        overlay_error_bytes=overlay.error_bytes,
        overlay_disk_bytes=overlay.disk_bytes,
        saved_bytes=guest.reclaimable - (overlay.disk_bytes - overlay.shared_bytes),
        overlay_bytes_by_cluster_size=_by_cluster_size(compared.file, extended_l2=geometry.extended_l2),
        allocation_unit=volume.unit,
        exactness=of_difference(guest.exactness, volume.exactness),
        note="; ".join(dict.fromkeys(filter(None, (guest.note, volume.note)))),
        standard_l2_disk_bytes=_by_cluster_size(compared.disk, extended_l2=False),
        extended_l2_disk_bytes=_by_cluster_size(compared.disk, extended_l2=True),
    )


def _by_cluster_size(sizes: dict[Geometry, int], *, extended_l2: bool) -> tuple[tuple[int, int], ...]:
    kind = {geometry.cluster_size: size for geometry, size in sizes.items() if geometry.extended_l2 is extended_l2}
    return tuple(sorted(kind.items()))
