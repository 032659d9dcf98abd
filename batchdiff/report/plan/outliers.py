"""Outliers among guests, and better cluster sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from batchdiff.choices import Verdict
from batchdiff.plan.overlay_options import Compression, Preallocation
from batchdiff.plan.plan import GuestPlan, GuestToConvert, why_unlike

_Kind = TypeVar("_Kind", bound=GuestPlan)


def outliers_first(guests: Iterable[_Kind]) -> list[_Kind]:
    """Return refused guests, then those that do not look like copies of the template, then the others."""

    def is_usual(guest: GuestPlan) -> int:
        if guest.verdict is Verdict.REFUSE:
            return 0
        return 1 if similarity_if_unlike(guest) is not None else 2

    return sorted(guests, key=is_usual)


def similarity_if_unlike(guest: GuestPlan) -> float | None:
    """Return the similarity of a guest that does not look like a copy of the template; None for others."""
    similarity = None if guest.diff is None else guest.diff.similarity
    return similarity.share if similarity is not None and why_unlike(similarity) else None


class BetterClusters(NamedTuple):
    """A cluster size with which overlays take less: at most ``at_most`` bytes on disk, instead of ``planned``."""

    cluster_size: int
    names: list[str]
    at_most: int
    planned: int


_WORTH_IT = 0.1
"""A cluster size is worth a remark if it saves more than this share of the overlays' disk use."""


def cluster_advice(guests: Iterable[GuestToConvert]) -> BetterClusters | None:
    """Return a cluster size with which overlays, even without holes, would take much less space; else None.

    Preallocated overlays are left out, as are compressed ones, whose sizes with other cluster sizes are not known.
    """
    chosen = [guest for guest in guests if _can_have_other_clusters(guest)]
    sizes = [dict(guest.diff.savings.overlay_bytes_by_cluster_size) for guest in chosen]
    planned = sum(guest.diff.savings.overlay_disk_bytes for guest in chosen)
    common = set.intersection(*(set(each) for each in sizes)) if sizes else set()
    found = min(((sum(each[size] for each in sizes), size) for size in common), default=None)
    if found is None or planned - found[0] <= planned * _WORTH_IT:
        return None
    return BetterClusters(found[1], [guest.name for guest in chosen], found[0], planned)


def _can_have_other_clusters(guest: GuestToConvert) -> bool:
    options = guest.options
    return options.compression is Compression.NONE and options.preallocation is Preallocation.OFF
