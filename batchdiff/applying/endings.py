"""How a guest's way may end, in words."""

from __future__ import annotations

from batchdiff.applying.places import Names
from batchdiff.applying.steps import OutgoingAt
from batchdiff.errors import GuestError


def fate(names: Names, where: OutgoingAt) -> str:
    """What became of an original that this process has not deleted."""
    if where is OutgoingAt.GONE:
        return "gone: an earlier run deleted it, or somebody moved it"
    if where is OutgoingAt.NAMED:
        return "kept"
    return f"quarantined as {names.at(where)}"


def lost(names: Names, where: OutgoingAt, incoming: str) -> GuestError:
    """Why nothing can be done any more: ``incoming`` is not what was published under that name."""
    if where is OutgoingAt.GONE:
        return GuestError(
            f"{names.own} is gone, and {incoming} is not as it was published",
            why="somebody removed or moved a file, or a VM runs on the overlay",
            remedy="Nothing was done. If the VM runs well on the overlay, all is well.",
        )
    return GuestError(
        f"{incoming} is gone",
        why="the journal says that it was published",
        remedy=f"Was it moved? {names.at(where)} is still there; `batchdiff restore` brings it back.",
    )
