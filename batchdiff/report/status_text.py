"""The state of each guest of a plan, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchdiff.applying.results.status_row import StatusRow
from batchdiff.report.figures import DASH
from batchdiff.report.form import WIDTH
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, paragraph, table

_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("step", Align.LEFT),
    Column("since", Align.LEFT),
    Column("next", Align.LEFT),
)


def status_text(guests: Sequence[StatusRow], *, width: int = WIDTH) -> str:
    """Return the rows for a terminal that is ``width`` cells wide, with a newline at the end."""
    rows = [
        (printable(each.name), each.step, printable(each.since) or DASH, printable(each.next)) for each in guests
    ]
    blocks = [table(_COLUMNS, rows, width=width), list(_failures(guests, width))]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _failures(guests: Sequence[StatusRow], width: int) -> Iterator[str]:
    for each in guests:
        if each.failure:
            text = f"{printable(each.name)}: {printable(each.failure)}"
            yield paragraph(text, width=width, first="failed  ", rest=" " * 10)
