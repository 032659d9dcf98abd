"""A plan as text for a terminal, for the operator to read before ``batchdiff apply``.

::

    heading        the template, and the number of guests
    warnings       images that have changed since planning
    table          guests that were compared or refused, and the totals; below it, why they do not add up
    notes          why guests are not converted; those skipped for the same reason together
    next           the space that apply needs, and what it will do
"""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.report.facts import PlanFacts
from batchdiff.report.form import WIDTH
from batchdiff.report.plan import words
from batchdiff.report.plan.remarks import remarks
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, paragraph, table

_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("allocated"),
    Column("overlay"),
    Column("saved"),
    Column("share"),
    Column("cluster"),
    Column("verdict", Align.LEFT),
)


def plan_text(facts: PlanFacts, width: int = WIDTH) -> str:
    """Return the savings report of a plan in ``width`` cells, with a newline at the end."""
    blocks = [
        [paragraph(line, width=width, rest="  ") for line in words.heading(facts)],
        list(_stale(facts, width)),
        [paragraph(sentence, width=width, rest="  ") for sentence in words.since(facts)],
        _table(facts, width),
        list(_below_the_table(facts, width)),
        list(_notes(facts, width)),
        [paragraph(sentence, width=width) for sentence in words.next_steps(facts)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _stale(facts: PlanFacts, width: int) -> Iterator[str]:
    if facts.stale:
        yield paragraph(words.STALE, width=width, rest="  ")
    for notice in facts.stale:
        yield paragraph(printable(notice), width=width, first="  - ", rest="    ")


def _table(facts: PlanFacts, width: int) -> list[str]:
    rows = [words.guest_cells(guest) for guest in facts.rows]
    if not rows:
        return []
    if len(facts.guests) != 1:
        rows.append(words.total_cells(facts))
    return table(_COLUMNS, rows, width=width)


def _below_the_table(facts: PlanFacts, width: int) -> Iterator[str]:
    yield from (paragraph(text, width=width) for text in words.how_saved(facts))
    yield from (paragraph(text, width=width, rest="  ") for text in words.not_exact(facts))


def _notes(facts: PlanFacts, width: int) -> Iterator[str]:
    notes = [*words.reasons(facts), *(("note", text) for text in remarks(facts))]
    for label, text in notes:
        yield paragraph(text, width=width, first=f"{label:<8}", rest=" " * 10)
