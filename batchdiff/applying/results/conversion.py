"""What apply and restore have done with one guest, for the report of its plan, and the space that came back."""

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

    ``fate``: its original's; ``aside``: the path of that in quarantine. ``overlay_bytes``: the length of the
    overlay with its data file when it was published; ``overlay_disk_bytes``: what these take on disk now, None if
    one is missing or cannot be opened. ``used``: it has been written to since. ``came_back_bytes``: by how much
    less the guest takes on disk than before, once its original is gone; 0 as long as that exists.
    ``dependents``: the images that depend on its kept original, in words.
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

    ``disk_bytes``: the space that it takes, None if it cannot be opened.
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
    """Return the sum of such numbers."""
    found = list(parts)
    return FreedSpace(sum(each.size for each in found), of_sum(each.exactness for each in found))


def freed_by_sharing(guest: GuestToShare, state: GuestState) -> FreedSpace:
    """Return the space that came back from a guest, as recorded; older journals do not record how exact it is."""
    exactness = guest.sharing.exactness if state.exactness is None else state.exactness
    return FreedSpace(state.came_back_bytes, so_far(exactness))


def so_far(exactness: Exactness) -> Exactness:
    """Return how exact a number is that counts only what has come back by now.

    "At least" means that more comes back once other files have let go of the same blocks, too. That happens later,
    and counts as theirs.
    """
    return Exactness.EXACT if exactness is Exactness.AT_LEAST else exactness
