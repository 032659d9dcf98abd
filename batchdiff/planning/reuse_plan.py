"""Find the parts of an older plan that are still exact; pure.

An older plan has no 4 KiB units, only extents folded to the granules of each overlay. So a part can be reused only
if the new overlay has the same granules, filled by the same rules (docs/scripting.md).
"""

from __future__ import annotations

import dataclasses

from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import BackingPath, Compression, OverlayOptions
from batchdiff.plan.plan import Diff, GuestPlan, Plan, PlannedImage
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.overlay_content import OverlayContent, ReusedOverlay
from batchdiff.planning.sizes.geometry_choice import chosen_geometry, geometries
from batchdiff.planning.sizes.overlay_sizes import ComparedSizes, OverlaySize


def why_unusable(older: Plan, template: PlannedImage, *, unchanged: bool, sharing: bool, generator: str) -> str:
    """Return why nothing in an older plan can be reused; empty if some of it may be.

    ``unchanged``: whether the template is known to have the same content as when the older plan was made.
    ``sharing``: whether the template shares blocks with other files now.
    """
    if older.generator != generator:
        return f"it was made by {older.generator}, not by {generator}"
    if not template.vouches_for_content:
        return "the template is, or depends on, a block device, whose fingerprint does not cover its content"
    if older.template.source != template.source:
        return "it was made for another template"
    if not unchanged or older.template.virtual_size != template.virtual_size:
        return f"the template has changed ({older.template.changes(template.fingerprints)})"
    if bool(older.template_digest) is sharing:
        return "the template shares blocks with other files now but did not when that plan was made, or vice versa"
    return ""


def reusable_overlays(older: Plan, candidates: list[Candidate]) -> dict[str, ReusedOverlay]:
    """Return the overlays of an older plan that are still exact, by the guest's present name."""
    by_image = {part.image: part for part in older.guests if part.image is not None}
    found = {}
    for candidate in candidates:
        part, entry = by_image.get(candidate.record), candidate.entry
        # For a guest without an overlay, the plan needs the 4 KiB units of a scan.
        is_known = part is not None and candidate.record.vouches_for_content and entry.gets_overlay
        if part is not None and is_known and _same_disk_use(part, entry):
            overlay = reusable_overlay(part, entry.options)
            if overlay is not None:
                found[entry.name] = overlay
    return found


def _same_disk_use(part: GuestPlan, entry: GuestEntry) -> bool:
    """Return False if older figures may be wrong: another folder's filesystem may have other allocation units."""
    options = entry.options
    if options.compression is Compression.NONE and options.extended_l2 is False and options.data_file is None:
        return True  # the figures are determined again
    return part.overlay_path.rpartition("/")[0] == entry.overlay_path.rpartition("/")[0]


def reusable_overlay(part: GuestPlan, options: OverlayOptions) -> ReusedOverlay | None:
    """Return the overlay if it is exact with these options; otherwise None."""
    diff = part.diff
    if diff is None or _fixed(part.options) != _fixed(options):
        return None
    sizes = _sizes(diff, options)
    if sizes is None or chosen_geometry(sizes, options.cluster_size) != diff.geometry:
        return None
    savings = diff.savings
    size = OverlaySize(savings.overlay_bytes, savings.overlay_error_bytes, savings.overlay_disk_bytes)
    return ReusedOverlay(OverlayContent(diff.geometry, extents_of(diff), sizes, diff.similarity), size)


def _fixed(options: OverlayOptions) -> OverlayOptions:
    """Give fixed values to the options that need not be equal.

    Cluster size and kind of L2 entries are compared as parts of the geometry.
    """
    return dataclasses.replace(
        options, cluster_size=None, extended_l2=None, backing_path=BackingPath.ABSOLUTE, lazy_refcounts=False
    )


def _sizes(diff: Diff, options: OverlayOptions) -> ComparedSizes | None:
    """Return the older sizes that a new plan would compare; None if too many are missing."""
    savings, wanted = diff.savings, geometries(options)
    lengths = dict(savings.overlay_bytes_by_cluster_size)
    file = {
        geometry: lengths[geometry.cluster_size]
        for geometry in wanted
        if geometry.extended_l2 is diff.geometry.extended_l2 and geometry.cluster_size in lengths
    }
    if options.data_file is None and not any(geometry.extended_l2 for geometry in wanted):
        return ComparedSizes(file, {}) if file else None
    on_disk = {False: dict(savings.standard_l2_disk_bytes), True: dict(savings.extended_l2_disk_bytes)}
    if not all(on_disk[geometry.extended_l2] for geometry in wanted):
        return None
    disk = {
        geometry: on_disk[geometry.extended_l2][geometry.cluster_size]
        for geometry in wanted
        if geometry.cluster_size in on_disk[geometry.extended_l2]
    }
    return ComparedSizes(file, disk)
