"""The report of a plan as text.

::

    heading        the number of guests, the template, and the origin of the plan
    stale          images that have changed since planning
    since          the changes since an older plan
    attention      refused guests, warnings, reasons, notes; first, because the table may be long
    table          guests that apply works on, with totals; then others
    figures        how the savings are calculated, and which figures are not exact
    strategies     what each strategy would save
    next           what apply has done and will do
"""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan import words
from batchdiff.report.plan.rows import columns, guest_cells, other_rows, rows, total_cells
from batchdiff.report.plan.strategies import STRATEGIES, STRATEGY_COLUMNS, strategy_rows
from batchdiff.report.printable import printable
from batchdiff.report.table import paragraph, table


def plan_text(facts: PlanFacts, width: int | None = None) -> str:
    """Return the report for a terminal of ``width`` cells, or for a pipe or file (None)."""
    nothing = words.nothing_chosen(facts)
    blocks = [
        [paragraph(line, width=width, rest="  ") for line in words.heading(facts)],
        list(_stale(facts, width)),
        [paragraph(sentence, width=width, rest="  ") for sentence in words.since(facts)],
        list(_attention(facts, width)),
        [paragraph(nothing, width=width)] if nothing else _table(facts, width),
        list(_below_the_table(facts, width)),
        _strategies(facts, width),
        [paragraph(sentence, width=width) for sentence in words.next_steps(facts)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _stale(facts: PlanFacts, width: int | None) -> Iterator[str]:
    if facts.stale:
        yield paragraph(words.STALE, width=width, rest="  ")
    for notice in facts.stale:
        yield paragraph(printable(notice), width=width, first="  - ", rest="    ")


def _attention(facts: PlanFacts, width: int | None) -> Iterator[str]:
    for label, text in words.attention(facts):
        yield paragraph(text, width=width, first=f"{label:<8}", rest=" " * 10)


def _table(facts: PlanFacts, width: int | None) -> list[str]:
    chosen, others = rows(facts), other_rows(facts)
    if not (chosen or others):
        return []
    summed = [guest_cells(facts, guest) for guest in chosen]
    if chosen and len(facts.guests) != 1:
        summed.append(total_cells(facts))
    lines = table(columns(facts), [*summed, *(guest_cells(facts, guest) for guest in others)], width=width)
    if summed and others:
        lines.insert(len(summed) + 1, "")  # the rows below are not part of the totals
    return lines


def _strategies(facts: PlanFacts, width: int | None) -> list[str]:
    compared = strategy_rows(facts)
    return [f"{STRATEGIES}:", *table(STRATEGY_COLUMNS, compared, width=width)] if compared else []


def _below_the_table(facts: PlanFacts, width: int | None) -> Iterator[str]:
    yield from (paragraph(text, width=width) for text in words.how_saved(facts))
    yield from (paragraph(text, width=width, rest="  ") for text in words.not_exact(facts))
