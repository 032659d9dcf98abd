"""The fates of originals in words, and warnings not to delete some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from batchdiff.applying.journal.records import Fate, Goal
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.plan.plan import Plan
from batchdiff.report.printable import printable
from batchdiff.units import few


def original_words(outcome: GuestOutcome) -> str:
    """Return the fate of a guest's original."""
    fate, aside, doubt = outcome.original
    words = {
        Fate.QUARANTINED: f"quarantined as {aside}" if aside else "kept in quarantine",
        Fate.BACK: "back under its name",
        Fate.REBUILT: "rebuilt from its overlay",
        Fate.UNKNOWN: f"unknown: {doubt}",
    }
    if outcome.status is not Status.FAILED:
        words[Fate.GONE] = "gone: an earlier run or another program deleted or moved it"
    return words.get(fate, fate.value)


def kept_words(what: Fate | Goal | None) -> str:
    """Return the state of a guest of a kept plan.

    ``what``: the fate of its original, or an unfinished goal; None: only its conversion is known.
    """
    match what:
        case None:
            return "converted"
        case Goal():
            return f"{what} not finished"
        case Fate.QUARANTINED:
            return "original in quarantine"
        case _:
            return f"original {what}"


def must_stay(plan: Plan, dependents: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a printable warning for each original that other images depend on.

    ``dependents``: those images, in words, by guest name.
    """
    for guest in plan.to_convert:
        found = dependents.get(guest.name, ())
        if found:
            images = few(list(map(printable, found)))
            yield f"Do not delete {printable(guest.source.path)} while any image depends on it: {images}."
