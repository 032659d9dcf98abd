"""The comparison of two plans; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from batchdiff.applying.results.conversion import Conversion
from batchdiff.choices import Strategy, Verdict
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.plan.earlier_plans import is_done
from batchdiff.plan.plan import GuestPlan, GuestToConvert, Plan
from batchdiff.report.figures import bounded_size, count_of, shortfall
from batchdiff.report.printable import printable
from batchdiff.units import few, format_size

NOTHING_DONE: Mapping[str, Conversion] = MappingProxyType({})


class SizeChange(NamedTuple):
    """The sizes of a guest's overlay in both plans, in bytes."""

    name: str
    before: int
    after: int


class PlanComparison(NamedTuple):
    """The differences between an older plan and a newer one.

    ``verdicts``: name, old and new verdict of each guest whose verdict differs.
    """

    older: Plan
    newer: Plan
    appeared: list[str]
    gone: list[str]
    verdicts: list[tuple[str, str, str]]
    changes: list[SizeChange]


def compared(older: Plan, newer: Plan) -> PlanComparison:
    """Compare two plans by the names of their guests; in ``changes``, the overlays that grew most come first."""
    before, after = _by_name(older), _by_name(newer)
    both = [(old, after[name]) for name, old in before.items() if name in after]
    changes = [
        SizeChange(old.name, old.diff.savings.overlay_bytes, new.diff.savings.overlay_bytes)
        for old, new in both
        if old.diff
        and new.diff
        and old.strategy is new.strategy is Strategy.OVERLAY
        and old.diff.savings.overlay_bytes != new.diff.savings.overlay_bytes
    ]
    return PlanComparison(
        older,
        newer,
        [name for name in after if name not in before],
        [name for name in before if name not in after],
        [(old.name, old.verdict.value, new.verdict.value) for old, new in both if old.verdict != new.verdict],
        sorted(changes, key=lambda each: each.before - each.after),
    )


def _by_name(plan: Plan) -> dict[str, GuestPlan]:
    return {guest.name: guest for guest in plan.guests}


def sentences(found: PlanComparison, conversions: Mapping[str, Conversion] = NOTHING_DONE) -> Iterator[str]:
    """Yield the comparison in printable sentences, the savings first.

    ``conversions``: the results of converting guests with the older plan, by guest name.
    """
    old, new = found.older.totals, found.newer.totals
    saved = [_amount(each.saved_bytes, each.exactness) for each in (old, new)]
    yield f"Saved: {saved[0]} in the plan of {printable(found.older.created)}, {saved[1]} now."
    done = _done(found)
    yield from _what_came_of(done, conversions)
    if found.older.template.source.path != found.newer.template.source.path:
        yield f"The older plan is for another template, {printable(found.older.template.source.path)}."
    elif _is_template_changed(found):
        if found.older.template_digest and found.newer.template_digest:
            yield "The template's content has changed since the older plan."
        else:
            changed = (
                "The size or mtime of the template, or the number of its files, has changed since the older plan"
            )
            yield f"{changed}, so its content may have changed."
    for names, what in ((found.appeared, "not in the older plan"), (found.gone, "only in the older plan")):
        if names:
            are = "is" if len(names) == 1 else "are"
            yield f"{count_of(len(names), 'guest')} {are} {what}: {few([printable(name) for name in names])}."
    others = [each for each in found.verdicts if each[0] not in {guest.name for guest in done}]
    for name, before, after in others:
        yield f"{printable(name)}: {before} in the older plan, {after} now."
    for each in found.changes:
        grew = "grew" if each.after > each.before else "shrank"
        sizes = f"from {format_size(each.before)} to {format_size(each.after)}"
        yield f"{printable(each.name)}: its overlay {grew} {sizes}."
    if not any((found.appeared, found.gone, found.verdicts, found.changes)):
        yield "Guests, verdicts and overlay sizes are the same."


def _is_template_changed(found: PlanComparison) -> bool:
    """Return whether the template's content has, or may have, changed.

    Without both digests, a copy that preserves times counts as unchanged.
    """
    older, newer = found.older, found.newer
    if older.template_digest and newer.template_digest:
        return older.template_digest != newer.template_digest
    files = older.template.fingerprints, newer.template.fingerprints
    return len(files[0]) != len(files[1]) or any(map(Fingerprint.was_written_to, *files))


def _done(found: PlanComparison) -> list[GuestToConvert]:
    now = _by_name(found.newer)
    return [
        guest
        for guest in found.older.to_convert
        if guest.name in now and now[guest.name].verdict is Verdict.SKIP and is_done(now[guest.name].reason)
    ]


def _what_came_of(done: list[GuestToConvert], conversions: Mapping[str, Conversion]) -> Iterator[str]:
    if not done:
        return
    savings = [guest.diff.savings for guest in done]
    exactness = of_sum(each.exactness for each in savings)
    planned = _amount(sum(each.saved_bytes for each in savings), exactness)
    text = f"{few([printable(guest.name) for guest in done])}: convert in the older plan, done now"
    known = [conversions[guest.name] for guest in done if guest.name in conversions]
    if known:
        freed = sum(each.came_back_bytes for each in known)
        # From a guest whose original still exists, exactly 0 bytes have come back.
        freeing = [
            guest for guest in done if guest.name in conversions and conversions[guest.name].has_freed_space
        ]
        exactness = of_sum(guest.diff.savings.exactness for guest in freeing)
        back = bounded_size(freed, exactness)
        came = f"{back} of {planned} planned has come back so far. The new plan's savings include neither figure."
        if shortfall(min(freed, sum(each.saved_bytes for each in savings)), exactness):
            came = (
                f"free space has changed by {back} so far ({planned} planned). The new plan's savings include"
                " neither figure."
            )
        if exactness is Exactness.UNKNOWN:
            came = "an unknown amount of space has come back so far. The new plan's savings do not include it."
        yield f"{text}; {came}"
    else:
        them = "it" if len(done) == 1 else "them"
        yield f"{text}; the new plan's savings do not include those planned for {them} ({planned})."


def _amount(size: int, exactness: Exactness) -> str:
    return "an unknown amount" if exactness is Exactness.UNKNOWN else bounded_size(size, exactness)


def comparison_report(found: PlanComparison) -> dict[str, object]:
    """Return the comparison as plain values for JSON."""
    return {
        "created": found.older.created,
        "saved_bytes": {"older": found.older.totals.saved_bytes, "newer": found.newer.totals.saved_bytes},
        "template_changed": _is_template_changed(found),
        "appeared": found.appeared,
        "gone": found.gone,
        "verdicts": [{"name": name, "older": old, "newer": new} for name, old, new in found.verdicts],
        "overlay_bytes": [{"name": name, "older": old, "newer": new} for name, old, new in found.changes],
    }
