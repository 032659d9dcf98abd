"""How a guest's way may end."""

from __future__ import annotations

from batchdiff.applying.notes import Fate
from batchdiff.applying.places import Names
from batchdiff.applying.steps import OutgoingAt
from batchdiff.errors import GuestError, ImageError
from batchdiff.image.opening import open_image
from batchdiff.image.source import ImageSource


def fate(where: OutgoingAt) -> Fate:
    """What became of an original that this process has not deleted."""
    return {OutgoingAt.GONE: Fate.GONE, OutgoingAt.NAMED: Fate.KEPT}.get(where, Fate.QUARANTINED)


def opens(overlay: ImageSource) -> bool:
    """Whether what stands in the place of an original that somebody removed is at least an image that opens."""
    try:
        open_image(overlay).close()
    except ImageError:
        return False
    return True


def lost(names: Names, where: OutgoingAt, incoming: str) -> GuestError:
    """Why nothing can be done: the image that took the place of the original is not there."""
    if where is OutgoingAt.GONE:
        return GuestError(
            f"{names.own} is gone, and no overlay that can be read is {incoming}",
            why="somebody removed or moved them",
            remedy="Nothing was done. Look for both; if they were moved, use `--map OLD=NEW`.",
        )
    return GuestError(
        f"the overlay {incoming} is gone, with what its VM wrote",
        why="the journal says that it was published, and somebody removed or moved it since",
        remedy=f"Look for it. Its original, as it was before the conversion, is {names.at(where)}, and"
        " `batchdiff restore --discard-changes` goes back to it.",
    )
