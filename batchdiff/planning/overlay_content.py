"""The content and geometry of a guest's overlay."""

from __future__ import annotations

from batchdiff.extents import Extents, extents_between
from batchdiff.frozen import frozen
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.plan import Savings, Similarity
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.geometry_choice import chosen_geometry, compared_sizes
from batchdiff.planning.sizes.overlay_sizes import ComparedSizes, OverlaySize, extents_to_write
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import ceil_div, format_size


@frozen
class OverlayContent:
    """The content of an overlay, in granules of its geometry.

    ``similarity``: None if the content comes from an older plan without it.
    """

    geometry: Geometry
    extents: Extents
    sizes: ComparedSizes
    similarity: Similarity | None


@frozen
class ReusedOverlay:
    """An older plan's overlay that is still exact."""

    content: OverlayContent
    size: OverlaySize


def content_of(
    compared: tuple[Extents, Similarity], virtual_size: int, options: OverlayOptions, unit: int
) -> OverlayContent:
    """Return the content of a guest's overlay.

    ``compared`` is in units of 4 KiB; ``unit``: the filesystem's allocation unit in bytes.

    :raises FormatError: no overlay with these options can map the disk.
    """
    units, similarity = compared
    # A guest may be a little smaller than its template: differences past its end do not count.
    units = extents_between(units, 0, ceil_div(virtual_size, UNIT))
    sizes = compared_sizes(units, virtual_size, options, unit)
    geometry = chosen_geometry(sizes, options.cluster_size)
    if geometry is None:
        least = min(each.cluster_size for each in sizes.file)
        raise FormatError(
            f"clusters of {format_size(options.cluster_size or 0)} cannot map a disk of"
            f" {format_size(virtual_size)}; choose {format_size(least)} or more"
        )
    extents = extents_to_write(units, virtual_size, options, geometry)
    return OverlayContent(geometry, extents, sizes, similarity)


def better_clusters(content: OverlayContent, savings: Savings, least: float) -> str:
    """Return the end of a sentence that suggests ``auto``; empty if ``auto`` would save too little.

    ``least``: the least share of the guest's allocation that must be saved.
    """
    auto = chosen_geometry(content.sizes, None)
    if auto is None or auto == content.geometry:
        return ""
    saved = savings.reclaimable_bytes - content.sizes.decisive[auto]
    if saved < least * savings.allocated_bytes:
        return ""
    return (
        f"; with clusters of {format_size(auto.cluster_size)}, it would save about {format_size(saved)}"
        " (`overlay: {cluster_size: auto}`)"
    )
