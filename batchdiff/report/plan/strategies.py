"""Sentences about sharing blocks in place, and the table of what each strategy would save.

::

    guest   overlay   share   planned          only guests with figures for both strategies
    web01   1.8 GiB  1.7 GiB  overlay
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batchdiff.applying.results.conversion import freed_in_all
from batchdiff.choices import Strategy
from batchdiff.image.storage.exactness import UNKNOWN_AMOUNT, Exactness, of_sum
from batchdiff.plan.plan import GuestPlan, Savings, Sharing
from batchdiff.report.facts import WORKED_ON, PlanFacts
from batchdiff.report.figures import bounded_size, count_of
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column
from batchdiff.units import format_size

STRATEGIES = "What each strategy would save"

STRATEGY_COLUMNS = (Column("guest", Align.LEFT), Column("overlay"), Column("share"), Column("planned", Align.LEFT))


class BothStrategies(NamedTuple):
    """A guest with figures for both strategies.

    ``planned``: the strategy, and the verdict if apply leaves the guest alone.
    """

    name: str
    overlay: Savings
    sharing: Sharing
    planned: str
    would_skip: frozenset[Strategy]


def both_strategies(facts: PlanFacts) -> list[BothStrategies]:
    """Return the guests to report that have figures for both strategies."""
    found = []
    for guest in facts.guests:
        if guest.diff is not None and guest.sharing is not None:
            savings, sharing = guest.diff.savings, guest.sharing
            would_skip = _would_skip(guest, savings, sharing, facts.plan.minimum_savings)
            found.append(BothStrategies(guest.name, savings, sharing, _planned(guest), would_skip))
    return found


def _planned(guest: GuestPlan) -> str:
    return guest.strategy.value + ("" if guest.verdict in WORKED_ON else f" ({guest.verdict})")


def _would_skip(guest: GuestPlan, overlay: Savings, sharing: Sharing, minimum: float) -> frozenset[Strategy]:
    """Return the planned strategy if apply leaves the guest alone, and the other one if it saves too little."""
    worth_it = {
        Strategy.OVERLAY: _saves_enough(overlay.saved_bytes, overlay.allocated_bytes, minimum),
        Strategy.SHARE: bool(sharing.shareable_bytes)
        and _saves_enough(sharing.saved_bytes, sharing.allocated_bytes, minimum),
    }
    others = {strategy for strategy, enough in worth_it.items() if strategy is not guest.strategy and not enough}
    return frozenset(others if guest.verdict in WORKED_ON else others | {guest.strategy})


def _saves_enough(saved: int, allocated: int, minimum: float) -> bool:
    return minimum == -math.inf or (saved > 0 and saved >= minimum * allocated)


def strategy_rows(facts: PlanFacts) -> Sequence[tuple[str, ...]]:
    """Return the rows of the table; if there are several guests, totals last."""
    both = both_strategies(facts)
    rows = [
        (
            printable(each.name),
            _saved(each.overlay.saved_bytes, each.overlay.exactness, each.overlay.overlay_error_bytes),
            _saved(each.sharing.saved_bytes, each.sharing.exactness),
            each.planned,
        )
        for each in both
    ]
    if len(both) > 1:
        # A total is what one strategy would save: guests that it would leave alone do not count.
        overlays = [each.overlay for each in both if Strategy.OVERLAY not in each.would_skip]
        sharings = [each.sharing for each in both if Strategy.SHARE not in each.would_skip]
        error = sum(each.overlay_error_bytes for each in overlays)
        rows.append(("total", _sum(overlays, error), _sum(sharings), ""))
    return rows


def _sum(figures: Sequence[Savings] | Sequence[Sharing], error: int = 0) -> str:
    saved, exactness = sum(each.saved_bytes for each in figures), of_sum(each.exactness for each in figures)
    return _saved(saved, exactness, error)


def _saved(size: int, exactness: Exactness, error: int = 0) -> str:
    """Return savings as text, even "at least -4 KiB": such a lower bound makes the total a lower bound, too."""
    least = "at least " if size < 0 and exactness is Exactness.AT_LEAST else ""
    return least + bounded_size(size, exactness, error)


def sharing_done(facts: PlanFacts) -> Iterator[str]:
    """Yield how many guests share blocks now, and the space that came back."""
    guests = [guest for guest in facts.plan.to_share if guest.name in facts.shared]
    if guests:
        back = freed_in_all(facts.shared[guest.name] for guest in guests)
        exactness = of_sum(guest.sharing.exactness for guest in guests)
        planned = _saved(sum(guest.sharing.saved_bytes for guest in guests), exactness)
        predicted = "" if exactness is Exactness.UNKNOWN else f" ({planned} predicted)"
        share = "shares" if len(guests) == 1 else "share"
        yield (
            f"{count_of(len(guests), 'guest')} {share} blocks in place with the template: {back} came back"
            f"{predicted}."
        )


def sharing_next(facts: PlanFacts) -> Iterator[str]:
    """Yield what apply will do with guests that do not share blocks yet."""
    guests = facts.to_share
    if not guests:
        return
    exactness = of_sum(guest.sharing.exactness for guest in guests)
    saved = _saved(sum(guest.sharing.saved_bytes for guest in guests), exactness)
    if exactness is Exactness.UNKNOWN:
        saved = UNKNOWN_AMOUNT
    stay, them = "Its file, format and definition stay", "the guest"
    if len(guests) > 1:
        stay, them = "Their files, formats and definitions stay", "these guests"
    yield (
        f"`batchdiff apply` will let {count_of(len(guests), 'guest')} share blocks in place with the template:"
        f" {saved} comes back immediately. {stay} as they are, and {them} will not depend on the template."
    )
    left_out = sum(guest.sharing.left_out_bytes for guest in guests)
    if left_out:
        yield (
            f"Another {format_size(left_out)} is equal to the template's data but cannot be shared: in"
            f" {'the' if len(guests) == 1 else 'a'} guest or in the template, that data is compressed or"
            " encrypted, at unaligned offsets, or in a file on a different filesystem."
        )
