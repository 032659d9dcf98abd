"""Which parts of an older plan are still exact, so that their guests need not be scanned; pure.

An older plan does not have the 4 KiB units of its scan, only extents folded to the granules of its overlay. So a
part can be reused if the new overlay has the same granules, filled by the same rules. Everything that depends on
more than content and granules is determined again (docs/scripting.md).
"""

from __future__ import annotations

from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import Compression, OverlayOptions, geometry_of
from batchdiff.plan.plan import GuestPlan, Plan, PlannedImage
from batchdiff.planning.assessment import Content, Exact
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.checkpoint.resume import vouches
from batchdiff.planning.sizes.overlay_sizes import chosen_cluster_size, least_cluster_size


def objection(older: Plan, template: PlannedImage, *, unchanged: bool, sharing: bool, generator: str) -> str:
    """Return why nothing of an older plan can be reused; empty if something may be.

    ``unchanged``: the template's fingerprints are those of the older plan, or known to be of the same content.
    """
    if older.generator != generator:
        return f"it was made by {older.generator}"
    if not vouches(template):
        return "the template is a block device, whose fingerprint does not cover its content"
    if older.template.source != template.source:
        return "it was made for another template"
    if not unchanged or older.template.virtual_size != template.virtual_size:
        return f"the template changed ({older.template.changes(template.fingerprints)})"
    if bool(older.template_digest) is sharing:
        return "the template shares blocks with other files now but did not then, or the reverse"
    return ""


def exact_parts(older: Plan, candidates: list[Candidate]) -> dict[int, Exact]:
    """Return the older parts that are still exact, by the number of the candidate."""
    by_image = {part.image: part for part in older.guests if part.image is not None}
    found = {}
    for number, candidate in enumerate(candidates):
        part = by_image.get(candidate.record)
        if part is not None and vouches(candidate.record) and _goes_where_it_went(part, candidate.entry):
            exact = exact_part(part, candidate.entry.options)
            if exact is not None:
                found[number] = exact
    return found


def _goes_where_it_went(part: GuestPlan, entry: GuestEntry) -> bool:
    """Return True if the older figures for disk use apply: in another folder, allocation units may differ."""
    if entry.options.compression is Compression.NONE:
        return True
    return part.overlay_path.rpartition("/")[0] == entry.overlay_path.rpartition("/")[0]


def exact_part(part: GuestPlan, options: OverlayOptions) -> Exact | None:
    """Return the content and size of an overlay with these options, from an older part; None if not exact."""
    before, savings = part.options, part.savings
    if savings is None or before.cluster_size is None:
        return None
    if part.unit != geometry_of(before, before.cluster_size).granule:
        return None
    if (before.extended_l2, before.compression) != (options.extended_l2, options.compression):
        return None
    least = least_cluster_size(options)
    sizes = {
        size: found
        for size, found in savings.overlay_bytes_by_cluster_size
        if size >= least or size == options.cluster_size
    }
    if not sizes or before.cluster_size != (options.cluster_size or chosen_cluster_size(sizes)):
        return None
    packed = (savings.overlay_bytes, savings.overlay_error_bytes, savings.overlay_disk_bytes)
    return Exact(Content(before.cluster_size, extents_of(part), sizes, part.similarity), packed)
