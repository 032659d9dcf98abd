"""Values for reports: the results of a guest's conversion, and the space that sharing blocks has freed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from batchdiff.applying.journal.records import Fate, GuestState
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import BOUND_WORDS, UNKNOWN_AMOUNT, Exactness, of_sum
from batchdiff.plan.plan import GuestToShare
from batchdiff.units import format_size


class Conversion(NamedTuple):
    """The results of a guest's conversion; sizes are in bytes.

    ``fate``: the original's. ``aside``: the original's path in quarantine. ``overlay_bytes``: the length of the
    overlay and its data file at publication. ``overlay_disk_bytes``: what they take on disk now; None if the
    overlay is missing or in doubt, or one of them cannot be examined. ``used``: whether the overlay has been
    written to since. ``came_back_bytes``: if the original is gone, how much less disk space the guest takes than
    before, apart from what its VM has written since; otherwise 0. ``dependents``: images that depend on the kept
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
    """An original that is still in quarantine although its guest was restored.

    ``disk_bytes``: the space that it takes on disk, None if it cannot be examined.
    """

    path: str
    disk_bytes: int | None


@frozen
class FreedSpace:
    """A number of bytes that were or will be freed, and how exact it is."""

    size: int = 0
    exactness: Exactness = Exactness.EXACT

    def __str__(self) -> str:
        """Return words such as ``1.2 GiB``, ``at most 1.2 GiB`` or ``an unknown amount of space``."""
        if self.exactness is Exactness.UNKNOWN:
            return UNKNOWN_AMOUNT
        return f"{BOUND_WORDS.get(self.exactness, '') if self.size > 0 else ''}{format_size(self.size)}"


def freed_in_all(parts: Iterable[FreedSpace]) -> FreedSpace:
    """Return the sum of several amounts of freed space."""
    found = list(parts)
    return FreedSpace(sum(each.size for each in found), of_sum(each.exactness for each in found))


def freed_by_sharing(guest: GuestToShare, state: GuestState) -> FreedSpace:
    """Return the space that a guest freed by sharing, as recorded.

    The exactness is that of the plan's prediction if an older journal does not record it.
    """
    exactness = guest.sharing.exactness if state.exactness is None else state.exactness
    return FreedSpace(state.came_back_bytes, so_far(exactness))


def so_far(exactness: Exactness) -> Exactness:
    """Return how exact a number is if it counts only the space that has been freed so far.

    "At least" means that more is freed once other files stop using the blocks; that is counted for those files.
    """
    return Exactness.EXACT if exactness is Exactness.AT_LEAST else exactness
