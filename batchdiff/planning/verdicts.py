"""The verdict on a guest whose differences are known, and the reason for skipping it."""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from batchdiff.choices import Verdict
from batchdiff.image.storage.allocation import DiskUse
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Savings, Sharing, Similarity, why_unlike
from batchdiff.planning.overlay_content import OverlayContent, better_clusters
from batchdiff.units import format_size

_WORTH_NAMING = 0.1
"""The least share of a guest's allocation that another cluster size must save to be suggested: the savings with it
are only an estimate."""


class Below(enum.Enum):
    """The image that a guest depends on now, if any."""

    NOTHING = "it is a full copy"
    ANOTHER = "it is an overlay of another image"
    TEMPLATE = "it is already an overlay of this template"


class LeastSavings(NamedTuple):
    """The savings below which a guest is skipped: a share of its allocation, and a number of bytes.

    With minus infinity as the share, any savings are enough, even negative ones, unless the guest is already an
    overlay of the template.
    """

    share: float
    bytes: int = 1

    def threshold(self, allocated: int, below: Below) -> float:
        """Return the least savings, in bytes, with which a guest is converted."""
        if self.share == -math.inf and below is not Below.TEMPLATE:
            return -math.inf
        return max(self.share * allocated, self.bytes)


def verdict_of(
    savings: Savings, use: DiskUse, content: OverlayContent, least: LeastSavings, below: Below
) -> tuple[Verdict, str]:
    """Return the verdict on a guest, and the reason, empty if it is to be converted."""
    if least.share == -math.inf and below is not Below.TEMPLATE:
        return Verdict.CONVERT, ""
    if savings.saved_bytes < least.bytes:
        return Verdict.SKIP, _why_not_smaller(savings, use, content, least, below)
    share = savings.saved_bytes / savings.allocated_bytes if savings.allocated_bytes else 0.0
    if share < least.share:
        return Verdict.SKIP, _below(share, least.share)
    return Verdict.CONVERT, ""


def _why_not_smaller(
    savings: Savings, use: DiskUse, content: OverlayContent, least: LeastSavings, below: Below
) -> str:
    if use.reclaimable == 0 < use.allocated:
        is_lower_bound = use.exactness is Exactness.AT_LEAST and not use.frees_nothing
        if use.exactness is Exactness.UNKNOWN or is_lower_bound:
            return f"whether deleting it would free anything is unknown: {use.note}"
        return f"deleting it would free nothing: {use.note}"
    would = "would" if savings.exactness in {Exactness.EXACT, Exactness.AT_MOST} else "might"
    better = better_clusters(content, savings, max(least.share, _WORTH_NAMING))
    smaller = savings.overlay_disk_bytes < savings.allocated_bytes and use.reclaimable < use.allocated
    shared = _more_than_freed(savings, use) if smaller else ""
    if below is Below.TEMPLATE:
        # Savings so small that they may be due to chance do not count.
        usual = f"{would} not be smaller" if savings.saved_bytes <= 0 else "would hardly be smaller"
        return f"{below.value}; a new one {shared or usual}{better}"
    if unlike := why_unlike(content.similarity):
        return unlike
    anyway = "; `minimum_savings: none` converts it anyway" if below is Below.ANOTHER else ""
    return f"its overlay {shared or f'{would} not be smaller than the guest is now'}{better}{anyway}"


def _more_than_freed(savings: Savings, use: DiskUse) -> str:
    would = "would" if use.exactness in {Exactness.EXACT, Exactness.AT_MOST} else "might"
    return (
        f"would take {format_size(savings.overlay_disk_bytes)}, and deleting the original {would} free only"
        f" {format_size(use.reclaimable)}: other files share the rest"
    )


def sharing_verdict(sharing: Sharing, similarity: Similarity, minimum: float) -> tuple[Verdict, str]:
    """Return the verdict with the strategy ``share``, and the reason, empty if the guest is to share blocks.

    ``minimum``: the least share of the guest's allocation that must be saved; minus infinity if nothing need be
    saved.
    """
    if not sharing.shareable_bytes:
        return Verdict.SKIP, _why_nothing_to_share(sharing, similarity)
    if minimum == -math.inf:
        return Verdict.SHARE, ""
    if sharing.saved_bytes <= 0:
        is_unknown = sharing.exactness is Exactness.UNKNOWN
        what = "whether sharing would free anything is unknown" if is_unknown else "sharing would free nothing"
        return Verdict.SKIP, f"{what}: {sharing.note or _IN_USE_ELSEWHERE}{_ANYWAY}"
    share = sharing.saved_bytes / sharing.allocated_bytes if sharing.allocated_bytes else 0.0
    return (Verdict.SKIP, _below(share, minimum)) if share < minimum else (Verdict.SHARE, "")


_IN_USE_ELSEWHERE = "the filesystem frees only whole extents, and other parts of them stay in use"
_ANYWAY = "; with `minimum_savings: none`, its blocks are shared anyway"


def _why_nothing_to_share(sharing: Sharing, similarity: Similarity) -> str:
    if unlike := why_unlike(similarity):
        return unlike
    if sharing.left_out_bytes:
        return (
            f"none of the {format_size(sharing.left_out_bytes)} that it has in common with the template, and does"
            " not share yet, can be shared: in one of the two images, that data is compressed or encrypted, at"
            " unaligned offsets, or in a file on a different filesystem"
        )
    return "it already shares all blocks that equal the template's"


def _below(share: float, minimum: float) -> str:
    digits = 1 if f"{share:.1%}" != f"{minimum:.1%}" else 4
    return f"it would save {share:.{digits}%}, which is below the minimum of {minimum:.{digits}%}"
