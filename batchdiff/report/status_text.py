"""The state of each guest of a plan, as text.

::

    guest  step     since                next     if the table is too wide, the last column
    web01  retired  2026-11-29 10:24:46  purge    is shortened, and its texts follow in full, each once:

    next    web01, web02 and 92 more: purge: delete the original in quarantine; or restore
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from batchdiff.applying.results.status_row import StatusRow
from batchdiff.report.figures import DASH, local_time
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, cells, paragraph, table
from batchdiff.units import few

_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("step", Align.LEFT),
    Column("since", Align.LEFT),
    Column("next", Align.LEFT),
)

_VERB = re.compile(r"(apply|purge|restore|verify|nothing|plan again|rm|move)(?: --[a-z-]+(?: [a-z]+)?)?\b")
"""The start of a row's ``next`` that fits into a narrow table."""


def status_text(guests: Sequence[StatusRow], *, width: int | None = None) -> str:
    """Return the report for a terminal of ``width`` cells, or for a pipe or file (None)."""
    if not guests:
        return "The plan has no guests.\n"
    whole = [_cells(each, printable(each.next)) for each in guests]
    lines = table(_COLUMNS, whole, width=None)
    next_steps: list[str] = []
    if width is not None and max(map(cells, lines)) > width:
        lines = table(_COLUMNS, [_cells(each, _briefly(each.next)) for each in guests], width=width)
        next_steps = list(_next_steps(guests, width))
    blocks = [lines, next_steps, list(_failures(guests, width))]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _cells(row: StatusRow, following: str) -> tuple[str, ...]:
    return printable(row.name), row.step, printable(local_time(row.since)) or DASH, following


def _briefly(text: str) -> str:
    found = _VERB.match(text)
    return found[0] if found else "see below"


def _next_steps(guests: Sequence[StatusRow], width: int) -> Iterator[str]:
    alike: dict[str, list[str]] = {}
    for each in guests:
        alike.setdefault(each.next, []).append(printable(each.name))
    for text, names in alike.items():
        yield paragraph(f"{few(names)}: {printable(text)}", width=width, first="next    ", rest=" " * 10)


def _failures(guests: Sequence[StatusRow], width: int | None) -> Iterator[str]:
    for each in guests:
        if each.failure:
            text = f"{printable(each.name)}: {printable(each.failure)}"
            yield paragraph(text, width=width, first="failed  ", rest=" " * 10)
