"""The results of apply, purge and restore so far, in words."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import freed_in_all
from batchdiff.files.filenames import shell_option, shell_path
from batchdiff.image.storage.exactness import UNKNOWN_AMOUNT, Exactness, of_sum
from batchdiff.plan.plan import GuestToConvert, Totals
from batchdiff.report.facts import PlanFacts
from batchdiff.report.fates import must_stay
from batchdiff.report.figures import DASH, bounded_size, count_of, shortfall
from batchdiff.report.printable import printable
from batchdiff.units import few, format_size

_ORIGINALS = {
    Fate.DELETED: "deleted",
    Fate.GONE: "gone (batchdiff recorded no deletion)",
    Fate.QUARANTINED: "in quarantine",
    Fate.KEPT: "kept",
    Fate.UNKNOWN: "uncertain (see `batchdiff status`)",
}


def done(facts: PlanFacts) -> Iterator[str]:
    """Yield sentences on overlays, originals, space and restored guests."""
    guests = _converted(facts)
    if not guests:
        yield from _restored(facts)
        return
    yield _overlays(facts, guests)
    yield f"Originals: {_counts(facts)}."
    waiting = _waiting(facts)
    if any(each.has_freed_space for each in facts.conversions.values()):
        yield _came_back(facts, is_all=waiting is None)
    if waiting is not None:
        yield waiting
    yield from must_stay(facts.plan, {name: each.dependents for name, each in facts.conversions.items()})
    yield from _restored(facts)


def done_figures(facts: PlanFacts) -> Iterator[tuple[str, str, str]]:
    """Yield the main figures after an apply: label, figure, and a remark, which may be empty."""
    totals = facts.predicted
    yield _figure_of_freed(facts, totals)
    if facts.shared:
        sharing = f"{len(facts.shared)} of {totals.share}"
        yield "guests that share blocks", sharing, "they do not depend on the template"
    if not facts.plan.to_convert:
        return
    taken = sum(each.overlay_disk_bytes or 0 for each in facts.conversions.values())
    there = [guest for guest in _converted(facts) if facts.conversions[guest.name].overlay_disk_bytes is not None]
    planned = sum(guest.diff.savings.overlay_disk_bytes for guest in there)
    yield "overlays take", format_size(taken), f"on disk now; predicted {format_size(planned)}"
    left, back = len(facts.pending), len(facts.given_back)
    remarks = [f"{left} to go"] * bool(left) + [f"{back} restored since"] * bool(back)
    yield "guests converted", f"{len(facts.conversions)} of {totals.convert}", ", ".join(remarks)
    if left:
        yield space_figure(facts)
    yield "originals", _counts(facts), ""


def _figure_of_freed(facts: PlanFacts, totals: Totals) -> tuple[str, str, str]:
    freed = freed_in_all(facts.freed.values())
    saved = bounded_size(totals.saved_bytes, totals.exactness, facts.error_bytes)
    planned = shortfall(totals.saved_bytes, totals.exactness)
    if totals.exactness is Exactness.UNKNOWN:
        planned = "an unknown amount"
    if lost := shortfall(freed.size, freed.exactness):
        return "came back", "nothing", f"{lost} than before; {planned or saved} planned"
    remark = f"{planned} planned" if planned else f"of {saved} planned"
    return "came back", bounded_size(freed.size, freed.exactness), remark


def space_figure(facts: PlanFacts) -> tuple[str, str, str]:
    """Return the free disk space that apply needs: label, figure and remark."""
    space = format_size(facts.space_at_once(facts.jobs)) if facts.pending else DASH
    return "needed at the peak", space, "free disk space, while apply runs"


def _converted(facts: PlanFacts) -> list[GuestToConvert]:
    return [guest for guest in facts.plan.to_convert if guest.name in facts.conversions]


def _overlays(facts: PlanFacts, guests: list[GuestToConvert]) -> str:
    there = [guest for guest in guests if facts.conversions[guest.name].overlay_disk_bytes is not None]
    missing = len(guests) - len(there)
    lost = f"{count_of(missing, 'overlay')} cannot be found or read now." if missing else ""
    if not there:
        return lost
    found = [facts.conversions[guest.name] for guest in there]
    predicted = sum(guest.diff.savings.overlay_bytes for guest in there)
    actual = sum(each.overlay_bytes for each in found)
    are, total = ("is", "") if len(there) == 1 else ("are", "total ")
    length = f"{are} in place, and had a {total}length of"
    text = f"{count_of(len(there), 'overlay')} {length} {format_size(actual)} when written"
    text += ", as predicted" if actual == predicted else f" ({format_size(predicted)} predicted)"
    taken = sum(each.overlay_disk_bytes or 0 for each in found)
    planned = sum(guest.diff.savings.overlay_disk_bytes for guest in there)
    text += f"; on disk now: {format_size(taken)} ({format_size(planned)} predicted)."
    if used := sum(each.used for each in found):
        whose = "Its mtime" if len(there) == 1 else f"The mtime of {used} of them"
        they = "its VM has" if used == 1 else "their VMs have"
        text += f" {whose} has changed since: {they} probably run on {'it' if used == 1 else 'them'}."
    return f"{text} {lost}".rstrip()


def _counts(facts: PlanFacts) -> str:
    fates = [each.fate for each in facts.conversions.values()]
    counts = [f"{fates.count(fate)} {words}" for fate, words in _ORIGINALS.items() if fate in fates]
    if older := len(facts.older_originals):
        counts.append(f"{count_of(older, 'older original')} in quarantine")
    return ", ".join(counts) or DASH


def _restored(facts: PlanFacts) -> Iterator[str]:
    plan = f" {shell_path(facts.path)}" if facts.path else ""
    if facts.given_back:
        back = sorted(facts.given_back)
        were, them, named = ("was", "it", back[0]) if len(back) == 1 else ("were", "them", "NAME")
        it = "it" if len(back) == 1 else "one of them"
        apply = f"batchdiff apply{plan} {shell_option('--guest', named)}"
        yield (
            f"{few([printable(name) for name in back])} {were} restored, and no total includes {them}."
            f" `{apply}` converts {it} again. For an image that was rebuilt or has changed since, make a new"
            " plan."
        )
    older = facts.older_originals
    if older:
        sizes = [each.disk_bytes for each in older.values()]
        size = format_size(sum(each or 0 for each in sizes))
        least = "at least " if None in sizes else ""
        original, takes = ("original", "takes") if len(older) == 1 else ("originals", "take")
        aside = sum(each.fate is Fate.QUARANTINED for each in facts.conversions.values())
        yield (
            f"The older {original} of {few([printable(name) for name in older])}, still in quarantine, {takes}"
            f" {least}{size} on disk: `batchdiff purge{plan} --used` deletes the"
            f" {_originals(len(older) + aside)} in quarantine."
        )


def _came_back(facts: PlanFacts, *, is_all: bool) -> str:
    one = len(facts.conversions) == 1
    freed = freed_in_all(each for name, each in facts.freed.items() if name in facts.conversions)
    if lost := shortfall(freed.size, freed.exactness):
        there = "There is" if is_all else "So far, there is"
        more = (
            "overlay takes more than deleting the original"
            if one
            else "overlays take more than deleting the originals"
        )
        return f"{there} {lost} than before: the {more} freed."
    came = "came back" if is_all else "has come back so far"
    return f"{_capitalized(str(freed))} {came}, net of the {'overlay' if one else 'overlays'}."


def _waiting(facts: PlanFacts) -> str | None:
    """Return a sentence on how more space comes back; None if every original that is left must stay."""
    there = [guest for guest in _converted(facts) if not facts.conversions[guest.name].has_freed_space]
    left = [guest for guest in there if not facts.conversions[guest.name].dependents]
    if not left:
        return None
    fates = [facts.conversions[guest.name].fate for guest in left]
    aside = fates.count(Fate.QUARANTINED)
    exactness = of_sum(guest.diff.savings.exactness for guest in left)
    saved = sum(guest.diff.savings.saved_bytes for guest in left)
    plan = f" {shell_path(facts.path)}" if facts.path else ""
    ways = []
    if aside:
        ways.append(f"once `batchdiff purge{plan} --used` deletes the {_originals(aside)} in quarantine")
    uncertain = fates.count(Fate.UNKNOWN)
    devices = [
        guest.is_on_device
        for guest, fate in zip(left, fates, strict=True)
        if fate not in {Fate.QUARANTINED, Fate.UNKNOWN}
    ]
    if devices:
        ways.append(_end_of_kept(len(devices), sum(devices), some_stay=len(left) < len(there)))
    if uncertain:
        ways.append(f"once the {_originals(uncertain)} whose state is uncertain {_has(uncertain)} been deleted")
    if lost := shortfall(saved, exactness):
        return f"There will be {lost} than before `apply`, even {' and '.join(ways)}."
    more = UNKNOWN_AMOUNT if exactness is Exactness.UNKNOWN else bounded_size(saved, exactness)
    return f"{_capitalized(more)} comes back {' and '.join(ways)}."


def _end_of_kept(kept: int, devices: int, *, some_stay: bool) -> str:
    """Return, as a clause, how to get space back; ``devices`` of the ``kept`` originals are block devices."""
    are, free = "is" if kept == 1 else "are", " that no other image depends on" if some_stay else ""
    device, them = ("block device", "it") if devices == 1 else ("block devices", "them")
    if 0 < devices < kept:
        file = "file" if kept - devices == 1 else "files"
        return (
            f"once you delete the kept original {file}{free}, and remove the kept {device}{free} or discard"
            " what is"
            f" on {them}"
        )
    what = device if devices else _originals(kept)
    which = f"kept {what}{free}" if free else f"{what} that {are} kept"
    return (
        f"once you remove the {which}, or discard what is on {them}" if devices else f"once you delete the {which}"
    )


def _originals(count: int) -> str:
    return "original" if count == 1 else "originals"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
