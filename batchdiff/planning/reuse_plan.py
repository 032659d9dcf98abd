"""Find the parts of an older plan that are still exact, so that their guests need not be scanned; pure.

An older plan does not have the 4 KiB units of its scan, only extents folded to the granules of its overlay. So a
part can be reused if the new overlay has the same granules, filled by the same rules. Anything that depends on
more than content and granules is determined again (docs/scripting.md).
"""

from __future__ import annotations

from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.plan.plan import GuestPlan, Plan, PlannedImage
from batchdiff.planning.assessment import ReusedOverlay
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.sizes.overlay_sizes import (
    OverlayContent,
    OverlaySize,
    chosen_cluster_size,
    least_cluster_size,
)


def why_unusable(older: Plan, template: PlannedImage, *, unchanged: bool, sharing: bool, generator: str) -> str:
    """Return why nothing of an older plan can be reused; empty if something may be.

    ``unchanged``: the template's fingerprints are those of the older plan, or known to be of the same content.
    """
    if older.generator != generator:
        return f"it was made by {older.generator}"
    if not template.vouches_for_content:
        return "the template is a block device, whose fingerprint does not cover its content"
    if older.template.source != template.source:
        return "it was made for another template"
    if not unchanged or older.template.virtual_size != template.virtual_size:
        return f"the template changed ({older.template.changes(template.fingerprints)})"
    if bool(older.template_digest) is sharing:
        return "the template shares blocks with other files now but did not then, or the reverse"
    return ""


def reusable_overlays(older: Plan, candidates: list[Candidate]) -> dict[str, ReusedOverlay]:
    """Return the overlays of an older plan that are still exact, by the guest's present name."""
    by_image = {part.image: part for part in older.guests if part.image is not None}
    found = {}
    for candidate in candidates:
        part, entry = by_image.get(candidate.record), candidate.entry
        if part is not None and candidate.record.vouches_for_content and _same_disk_use(part, entry):
            overlay = reusable_overlay(part, entry.options)
            if overlay is not None:
                found[entry.name] = overlay
    return found


def _same_disk_use(part: GuestPlan, entry: GuestEntry) -> bool:
    """Return True if the older figures for disk use apply: in another folder, allocation units may differ."""
    if entry.options.compression is Compression.NONE:
        return True  # the figures are determined again
    return part.overlay_path.rpartition("/")[0] == entry.overlay_path.rpartition("/")[0]


def reusable_overlay(part: GuestPlan, options: OverlayOptions) -> ReusedOverlay | None:
    """Return the overlay of an older part if it is exact with these options; None if it is not."""
    before, diff = part.options, part.diff
    if diff is None or (before.extended_l2, before.compression) != (options.extended_l2, options.compression):
        return None
    least, cluster_size = least_cluster_size(options), diff.geometry.cluster_size
    sizes = {
        size: found
        for size, found in diff.savings.overlay_bytes_by_cluster_size
        if size >= least or size == options.cluster_size
    }
    if not sizes or cluster_size != (options.cluster_size or chosen_cluster_size(sizes)):
        return None
    savings = diff.savings
    size = OverlaySize(savings.overlay_bytes, savings.overlay_error_bytes, savings.overlay_disk_bytes)
    return ReusedOverlay(OverlayContent(cluster_size, extents_of(diff), sizes, diff.similarity), size)
