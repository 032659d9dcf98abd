"""What became of originals, in words: in results, in events, and for a plan that is kept."""

from __future__ import annotations

from batchdiff.applying.journal.records import Fate, Goal
from batchdiff.applying.results.outcome import GuestOutcome, Status


def original_words(outcome: GuestOutcome) -> str:
    """Return what became of a guest's original; the first word is its column in the table of results."""
    fate, aside, doubt = outcome.original
    words = {
        Fate.QUARANTINED: f"quarantined as {aside}" if aside else "kept in quarantine",
        Fate.BACK: "back under its name",
        Fate.REBUILT: "rebuilt from its overlay",
        Fate.UNKNOWN: f"unknown: {doubt}",
    }
    if outcome.status is not Status.FAILED:
        words[Fate.GONE] = "gone: an earlier run deleted it, or it was moved"
    return words.get(fate, fate.value)


def kept_words(what: Fate | Goal | None) -> str:
    """Return the state of a guest whose plan is kept: its original's fate, or the verb that has not finished."""
    match what:
        case None:
            return "converted"
        case Goal():
            return f"{what} not finished"
        case Fate.QUARANTINED:
            return "original in quarantine"
        case _:
            return f"original {what}"
