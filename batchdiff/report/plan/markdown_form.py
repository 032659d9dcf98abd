"""A plan as Markdown, for merge requests and tickets (GitHub's dialect, for its tables)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan import words
from batchdiff.report.plan.remarks import remarks
from batchdiff.report.printable import printable

_SPECIAL = re.compile(r"[\\*_{}\[\]<>|&#~]")
_CODE = re.compile(r"(`[^`\n]+`)")

_HEADINGS = ("guest", "allocated", "overlay", "saved", "share", "cluster", "verdict")
_RULE = "| :-- | --: | --: | --: | --: | --: | :-- |"


def plan_markdown(facts: PlanFacts) -> str:
    """Return the savings report of a plan as Markdown, with a newline at the end."""
    guests, origin = words.heading(facts)
    blocks = [
        f"# {escaped(guests)}",
        escaped(origin),
        "\n".join(_figures(facts)),
        *map(escaped, words.since(facts)),
        _list(words.STALE, map(printable, facts.stale)),
        _list(words.ATTENTION, (f"{label}: {text}" for label, text in (*words.reasons(facts), *_notes(facts)))),
        "\n".join(_table(facts)),
        *map(escaped, (*words.how_saved(facts), *words.not_exact(facts))),
        *map(escaped, words.next_steps(facts)),
        *(f"{what}\n\n    {command}" for what, command in words.next_commands(facts)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, except for commands between backticks, which stay code."""
    parts = _CODE.split(text)
    # Every second part is code. Other backticks are as they are in the text.
    return "".join(
        part.replace("|", "\\|") if number % 2 else _SPECIAL.sub(r"\\\g<0>", part).replace("`", "\\`")
        for number, part in enumerate(parts)
    )


def _figures(facts: PlanFacts) -> Iterator[str]:
    for label, value, remark in words.main_figures(facts):
        yield f"- {label}: **{escaped(value)}**{f' ({escaped(remark)})' if remark else ''}"


def _list(title: str, items: Iterable[str]) -> str:
    lines = [f"- {escaped(item)}" for item in items]
    return "\n".join([f"**{escaped(title)}**", "", *lines]) if lines else ""


def _notes(facts: PlanFacts) -> Iterator[tuple[str, str]]:
    yield from (("note", text) for text in remarks(facts))


def _table(facts: PlanFacts) -> Iterator[str]:
    rows = [words.guest_cells(guest) for guest in facts.rows]
    if not rows:
        return
    yield f"| {' | '.join(_HEADINGS)} |"
    yield _RULE
    for row in rows:
        yield f"| {' | '.join(map(escaped, row))} |"
    if len(facts.guests) != 1:
        yield f"| {' | '.join(f'**{escaped(cell)}**' if cell else '' for cell in words.total_cells(facts))} |"
