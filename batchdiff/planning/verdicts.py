"""The verdict on a guest that was compared: whether its conversion is worth it, and if not, why."""

from __future__ import annotations

import math

from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Savings, Verdict, why_unlike
from batchdiff.planning.sizes.overlay_sizes import OverlayContent, chosen_cluster_size
from batchdiff.units import format_size

_WORTH_NAMING = 0.1
"""The share of a guest's allocation that another cluster size must save to be suggested: its savings are estimated
from the file's size, which differs a little from the space taken on disk."""

_THIN = "it is already an overlay of this template"


def verdict_of(
    savings: Savings, use: DiskUse, minimum: float, content: OverlayContent, *, rethin: int | None = None
) -> tuple[Verdict, str]:
    """Return the verdict on a guest, and why it is not converted.

    ``minimum``: the share of its allocation that it must save; minus infinity if it may even take more.
    ``rethin``: of an overlay that a thinner one is to replace, the bytes in which its filesystem lists its
    extents, because that much may be saved by chance; None for any other guest.
    """
    if minimum == -math.inf and rethin is None:
        return Verdict.CONVERT, ""
    if savings.saved_bytes <= (rethin or 0):
        return Verdict.SKIP, _why_not_smaller(savings, use, minimum, content, is_overlay=rethin is not None)
    share = savings.saved_bytes / savings.allocated_bytes if savings.allocated_bytes else 0.0
    if share < minimum:
        digits = 1 if f"{share:.1%}" != f"{minimum:.1%}" else 4
        return (
            Verdict.SKIP,
            f"it would save {share:.{digits}%}, which is below the minimum of {minimum:.{digits}%}",
        )
    return Verdict.CONVERT, ""


def _why_not_smaller(
    savings: Savings, use: DiskUse, minimum: float, content: OverlayContent, *, is_overlay: bool
) -> str:
    if use.reclaimable == 0 < use.allocated:
        return f"deleting it would free nothing: {use.note}"
    unlike = why_unlike(content.similarity)
    if unlike and not is_overlay:
        return unlike
    would = "would" if savings.exactness in {Exactness.EXACT, Exactness.AT_MOST} else "might"
    better = _better_clusters(savings, content, max(minimum, _WORTH_NAMING))
    if is_overlay:
        return f"{_THIN}, and a new one {would} not be smaller{better}"
    return f"its overlay {would} not be smaller than the guest is now{better}"


def _better_clusters(savings: Savings, content: OverlayContent, least: float) -> str:
    """Return the end of a sentence, suggesting a cluster size that saves at least that share; empty if none."""
    auto = chosen_cluster_size(content.sizes)
    saved = savings.reclaimable_bytes - content.sizes[auto]
    if auto == content.cluster_size or saved < least * savings.allocated_bytes:
        return ""
    return (
        f"; with clusters of {format_size(auto)} it would save about {format_size(saved)}:"
        " `overlay: {cluster_size: auto}`"
    )
