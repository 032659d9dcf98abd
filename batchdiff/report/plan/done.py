"""What apply, purge and the operator have done with a plan so far, in words: predictions beside what came."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.applying.journal.records import Fate
from batchdiff.files.filenames import shell_word
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.plan.plan import GuestToConvert
from batchdiff.report.facts import PlanFacts
from batchdiff.report.figures import DASH, UNKNOWN_AMOUNT, bounded_size, count_of
from batchdiff.units import format_size

_ORIGINALS = {
    Fate.DELETED: "deleted",
    Fate.GONE: "gone, but not deleted by batchdiff",
    Fate.QUARANTINED: "in quarantine",
    Fate.KEPT: "kept",
    Fate.UNKNOWN: "uncertain, as `batchdiff status` explains",
}
_GONE = {Fate.DELETED, Fate.GONE}


def done(facts: PlanFacts) -> Iterator[str]:
    """Yield what is true after an apply: the overlays, the originals, and the space; nothing before one."""
    guests = _converted(facts)
    if not guests:
        return
    yield _overlays(facts, guests)
    yield f"Originals: {_counts(facts)}."
    back, waiting = came_back(facts), _waiting(facts)
    if any(each.fate in _GONE for each in facts.conversions.values()):
        yield f"{back} came back{'' if waiting is None else ' so far'}, net of the overlays."
    if waiting is not None:
        yield waiting


def done_figures(facts: PlanFacts) -> Iterator[tuple[str, str, str]]:
    """Yield what matters after an apply: a label, a figure, and a remark on it."""
    totals = facts.plan.totals
    saved = bounded_size(totals.saved_bytes, totals.exactness, facts.error_bytes)
    yield "came back", came_back(facts), f"of {saved} planned"
    if facts.shared:
        yield "guests that share blocks", f"{len(facts.shared)} of {totals.share}", "nothing rests on the template"
    if not facts.savings:
        return
    taken = sum(each.overlay_disk_bytes or 0 for each in facts.conversions.values())
    planned = sum(guest.diff.savings.overlay_disk_bytes for guest in _converted(facts))
    yield "overlays take", format_size(taken), f"on disk now; predicted {format_size(planned)}"
    left = len(facts.pending)
    yield "guests converted", f"{len(facts.conversions)} of {totals.convert}", f"{left} to go" if left else ""
    if left:
        yield space_figure(facts)
    yield "originals", _counts(facts), ""


def space_figure(facts: PlanFacts) -> tuple[str, str, str]:
    """Return the space that apply needs, as a figure."""
    space = format_size(facts.space_at_once(facts.jobs)) if facts.pending else DASH
    return "needed at the worst moment", space, "free disk space, while apply runs"


def came_back(facts: PlanFacts) -> str:
    """Return the space that came back so far."""
    gone = [guest for guest in _converted(facts) if facts.conversions[guest.name].fate in _GONE]
    size = sum(facts.conversions[guest.name].came_back_bytes for guest in gone) + sum(facts.shared.values())
    return bounded_size(size, of_sum(guest.diff.savings.exactness for guest in gone))


def _converted(facts: PlanFacts) -> list[GuestToConvert]:
    return [guest for guest in facts.plan.to_convert if guest.name in facts.conversions]


def _overlays(facts: PlanFacts, guests: list[GuestToConvert]) -> str:
    found = [facts.conversions[guest.name] for guest in guests]
    predicted = sum(guest.diff.savings.overlay_bytes for guest in guests)
    actual = sum(each.overlay_bytes for each in found)
    are, were = ("is", "was") if len(guests) == 1 else ("are", "were")
    text = f"{count_of(len(guests), 'overlay')} {are} in place, and {were} {format_size(actual)} long when written"
    text += ", as predicted" if actual == predicted else f" ({format_size(predicted)} predicted)"
    taken = [each.overlay_disk_bytes for each in found if each.overlay_disk_bytes is not None]
    planned = sum(guest.diff.savings.overlay_disk_bytes for guest in guests)
    if len(taken) < len(found):
        return f"{text}; {count_of(len(found) - len(taken), 'overlay')} cannot be found or read now."
    text += f"; on disk now: {format_size(sum(taken))} ({format_size(planned)} predicted)"
    used = sum(each.used for each in found)
    return f"{text}, and VMs have written to {used} of them since." if used else f"{text}."


def _counts(facts: PlanFacts) -> str:
    fates = [each.fate for each in facts.conversions.values()]
    return ", ".join(f"{fates.count(fate)} {words}" for fate, words in _ORIGINALS.items() if fate in fates)


def _waiting(facts: PlanFacts) -> str | None:
    """Return how the rest of the space comes back; None if no original of a converted guest exists."""
    left = [guest for guest in _converted(facts) if facts.conversions[guest.name].fate not in _GONE]
    if not left:
        return None
    fates = {facts.conversions[guest.name].fate for guest in left}
    exactness = of_sum(guest.diff.savings.exactness for guest in left)
    size = bounded_size(sum(guest.diff.savings.saved_bytes for guest in left), exactness)
    plan = f" {shell_word(facts.path)}" if facts.path else ""
    ways = []
    if Fate.QUARANTINED in fates:
        ways.append(f"once `batchdiff purge{plan} --used` deletes the originals in quarantine")
    if fates - {Fate.QUARANTINED}:
        ways.append("once you delete the originals that are kept")
    more = UNKNOWN_AMOUNT if exactness is Exactness.UNKNOWN else size
    return f"{more} {'comes' if exactness is Exactness.UNKNOWN else 'come'} back {' and '.join(ways)}."
