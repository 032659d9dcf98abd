"""Describe, for a plan's report, what apply and restore have done to a guest, and how much space that freed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from batchdiff.applying.journal.records import Fate, GuestState
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import BOUND_WORDS, UNKNOWN_AMOUNT, Exactness, of_sum
from batchdiff.plan.plan import GuestToShare
from batchdiff.units import format_size


class Conversion(NamedTuple):
    """What became of a converted guest; sizes in bytes.

    ``fate``: what became of its original; ``aside``: the original's path in quarantine. ``overlay_bytes``: the
    length of the overlay and its data file at publication; ``overlay_disk_bytes``: what they take on disk now,
    None if the overlay is missing, or if one of them cannot be examined. ``used``: the overlay has been written to
    since. ``came_back_bytes``: how much less disk space the guest takes than before, once its original is gone,
    apart from what its VM has written since; otherwise 0. ``dependents``: the images that depend on its kept
    original, in words.
    """

    fate: Fate
    overlay_bytes: int
    overlay_disk_bytes: int | None
    used: bool
    came_back_bytes: int
    aside: str | None = None
    dependents: tuple[str, ...] = ()

    @property
    def has_freed_space(self) -> bool:
        """True once the original is gone."""
        return self.fate in {Fate.DELETED, Fate.GONE}


class OlderOriginal(NamedTuple):
    """An original that is still in quarantine, although restore gave its guest a rebuilt image.

    ``disk_bytes``: the space that it takes, None if it cannot be examined.
    """

    path: str
    disk_bytes: int | None


@frozen
class FreedSpace:
    """The bytes by which free space has grown, and how exact that is."""

    size: int = 0
    exactness: Exactness = Exactness.EXACT

    def __str__(self) -> str:
        """Return the words for a sentence: ``1.2 GiB``, ``at most 1.2 GiB`` or ``an unknown amount of space``."""
        if self.exactness is Exactness.UNKNOWN:
            return UNKNOWN_AMOUNT
        return f"{BOUND_WORDS.get(self.exactness, '') if self.size > 0 else ''}{format_size(self.size)}"


def freed_in_all(parts: Iterable[FreedSpace]) -> FreedSpace:
    """Return the sum of several amounts of freed space."""
    found = list(parts)
    return FreedSpace(sum(each.size for each in found), of_sum(each.exactness for each in found))


def freed_by_sharing(guest: GuestToShare, state: GuestState) -> FreedSpace:
    """Return the recorded space that a guest freed by sharing.

    Older journals do not record how exact it is: then it is as exact as the plan's prediction.
    """
    exactness = guest.sharing.exactness if state.exactness is None else state.exactness
    return FreedSpace(state.came_back_bytes, so_far(exactness))


def so_far(exactness: Exactness) -> Exactness:
    """Return how exact a number is if it counts only the space that has been freed so far.

    "At least" means that more is freed once other files, too, no longer use the same blocks. That happens later,
    and is counted for those files.
    """
    return Exactness.EXACT if exactness is Exactness.AT_LEAST else exactness
