"""The results of conversions and of sharing, as values for reports."""

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

    ``overlay_bytes``: the total length of the overlay and its data file at publication. ``overlay_disk_bytes``:
    what they take on disk now; None if unknown. ``used``: whether the overlay has been written to since
    publication. ``came_back_bytes``: 0 until the original is deleted or gone; then how much less disk space the
    guest takes than before, not counting what its VM has written since. ``aside``: the original in quarantine.
    ``dependents``: of the original, in words.
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
        """True once the original is deleted or gone."""
        return self.fate in {Fate.DELETED, Fate.GONE}


class OlderOriginal(NamedTuple):
    """An original that is still in quarantine although its guest was restored; its size is None if unknown."""

    path: str
    disk_bytes: int | None


@frozen
class FreedSpace:
    """A number of bytes that were or will be freed."""

    size: int = 0
    exactness: Exactness = Exactness.EXACT

    def __str__(self) -> str:
        if self.exactness is Exactness.UNKNOWN:
            return UNKNOWN_AMOUNT
        return f"{BOUND_WORDS.get(self.exactness, '') if self.size > 0 else ''}{format_size(self.size)}"


def freed_in_all(parts: Iterable[FreedSpace]) -> FreedSpace:
    """Return the sum."""
    found = list(parts)
    return FreedSpace(sum(each.size for each in found), of_sum(each.exactness for each in found))


def freed_by_sharing(guest: GuestToShare, state: GuestState) -> FreedSpace:
    """Return the space that a guest freed by sharing, as recorded."""
    exactness = guest.sharing.exactness if state.exactness is None else state.exactness
    return FreedSpace(state.came_back_bytes, so_far(exactness))


def so_far(exactness: Exactness) -> Exactness:
    """Return how exact a number is if it counts only the space that has been freed so far.

    "At least" means that more will be freed once other files stop using the blocks; so far, the number is exact.
    """
    return Exactness.EXACT if exactness is Exactness.AT_LEAST else exactness
