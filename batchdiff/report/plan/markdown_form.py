"""A plan as Markdown, in GitHub's dialect, which has tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan import words
from batchdiff.report.plan.rows import columns, guest_cells, other_rows, rows, total_cells
from batchdiff.report.plan.strategies import STRATEGIES, STRATEGY_COLUMNS, strategy_rows
from batchdiff.report.printable import printable
from batchdiff.report.table import Align

_SPECIAL = re.compile(r"[\\*_{}\[\]<>|&#~]")
_CODE = re.compile(r"(`[^`\n]+`)")

_RULES = {Align.LEFT: ":--", Align.RIGHT: "--:"}


def plan_markdown(facts: PlanFacts) -> str:
    """Return the savings report of a plan as Markdown."""
    guests, origin = words.heading(facts)
    blocks = [
        f"# {escaped(guests)}",
        escaped(origin),
        "\n".join(_figures(facts)),
        *map(escaped, words.since(facts)),
        _list(words.STALE, map(printable, facts.stale)),
        _list(words.ATTENTION, (f"{label}: {text}" for label, text in words.attention(facts))),
        escaped(words.nothing_chosen(facts)),
        "\n".join(_table(facts)),
        *map(escaped, (*words.how_saved(facts), *words.not_exact(facts))),
        "\n".join(_strategies(facts)),
        *map(escaped, words.next_steps(facts)),
        *(f"{what}\n\n    {command}" for what, command in words.next_commands(facts)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str, bar_in_code: str = "|") -> str:
    """Escape text for Markdown, except code between backticks; ``bar_in_code`` replaces each bar in such code."""
    parts = _CODE.split(text)
    # Every second part is code. A backtick in any other part is literal, so it is escaped.
    return "".join(
        part.replace("|", bar_in_code) if number % 2 else _SPECIAL.sub(r"\\\g<0>", part).replace("`", "\\`")
        for number, part in enumerate(parts)
    )


def _cell(text: str) -> str:
    """Escape text for a cell, even bars in code: a bar without a backslash would end the cell."""
    return escaped(text, bar_in_code="\\|")


def _figures(facts: PlanFacts) -> Iterator[str]:
    for label, value, remark in words.main_figures(facts):
        yield f"- {label}: **{escaped(value)}**{f' ({escaped(remark)})' if remark else ''}"


def _list(title: str, items: Iterable[str]) -> str:
    lines = [f"- {escaped(item)}" for item in items]
    return "\n".join([f"**{escaped(title)}**", "", *lines]) if lines else ""


def _table(facts: PlanFacts) -> Iterator[str]:
    chosen, others = rows(facts), other_rows(facts)
    if not (chosen or others):
        return
    yield f"| {' | '.join(column.heading for column in columns(facts))} |"
    yield f"| {' | '.join(_RULES[column.align] for column in columns(facts))} |"
    yield from (_row(guest_cells(facts, guest)) for guest in chosen)
    if chosen and len(facts.guests) != 1:
        yield f"| {' | '.join(f'**{_cell(cell)}**' if cell else '' for cell in total_cells(facts))} |"
    yield from (_row(guest_cells(facts, guest)) for guest in others)


def _strategies(facts: PlanFacts) -> Iterator[str]:
    if compared := strategy_rows(facts):
        yield f"**{escaped(STRATEGIES)}**\n"
        yield f"| {' | '.join(column.heading for column in STRATEGY_COLUMNS)} |"
        yield f"| {' | '.join(_RULES[column.align] for column in STRATEGY_COLUMNS)} |"
        yield from map(_row, compared)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"
