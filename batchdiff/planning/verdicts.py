"""The verdict on a guest that was compared: whether its conversion is worth it, and if not, why."""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from batchdiff.choices import Verdict
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Savings, why_unlike
from batchdiff.planning.overlay_content import OverlayContent, better_clusters

_WORTH_NAMING = 0.1
"""The share of a guest's allocation that another cluster size must save to be suggested: its savings are estimated
from the file's size, which differs a little from the space taken on disk."""


class Below(enum.Enum):
    """The image that a guest depends on now."""

    NOTHING = "it is a full copy"
    ANOTHER = "it is an overlay of another image"
    TEMPLATE = "it is already an overlay of this template"


class LeastSavings(NamedTuple):
    """The savings below which a guest is skipped: a share of its allocation, and bytes.

    A share of minus infinity: it may even take more than now, unless it is already an overlay of the template.
    """

    share: float
    bytes: int = 1


def verdict_of(
    savings: Savings, use: DiskUse, content: OverlayContent, least: LeastSavings, below: Below
) -> tuple[Verdict, str]:
    """Return the verdict on a guest, and why it is not converted; ``below``: the image that it depends on now."""
    if least.share == -math.inf and below is not Below.TEMPLATE:
        return Verdict.CONVERT, ""
    if savings.saved_bytes < least.bytes:
        return Verdict.SKIP, _why_not_smaller(savings, use, content, least, below)
    share = savings.saved_bytes / savings.allocated_bytes if savings.allocated_bytes else 0.0
    if share < least.share:
        digits = 1 if f"{share:.1%}" != f"{least.share:.1%}" else 4
        return (
            Verdict.SKIP,
            f"it would save {share:.{digits}%}, which is below the minimum of {least.share:.{digits}%}",
        )
    return Verdict.CONVERT, ""


def _why_not_smaller(
    savings: Savings, use: DiskUse, content: OverlayContent, least: LeastSavings, below: Below
) -> str:
    if use.reclaimable == 0 < use.allocated:
        return f"deleting it would free nothing: {use.note}"
    would = "would" if savings.exactness in {Exactness.EXACT, Exactness.AT_MOST} else "might"
    better = better_clusters(content, savings, max(least.share, _WORTH_NAMING))
    if below is Below.TEMPLATE:
        return f"{below.value}, and a new one {would} not be smaller{better}"
    if unlike := why_unlike(content.similarity):
        return unlike
    anyway = "; `minimum_savings: none` converts it anyway" if below is Below.ANOTHER else ""
    return f"its overlay {would} not be smaller than the guest is now{better}{anyway}"
