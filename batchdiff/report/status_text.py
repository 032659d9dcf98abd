"""The state of each guest of a plan, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchdiff.applying.results.standing import GuestStanding
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


def status_text(standings: Sequence[GuestStanding], *, width: int = WIDTH) -> str:
    """Return the standings for a terminal that is ``width`` cells wide, with a newline at the end."""
    rows = [
        (printable(each.name), each.step, printable(each.since) or DASH, printable(each.next))
        for each in standings
    ]
    blocks = [table(_COLUMNS, rows, width=width), list(_failures(standings, width))]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _failures(standings: Sequence[GuestStanding], width: int) -> Iterator[str]:
    for each in standings:
        if each.failure:
            text = f"{printable(each.name)}: {printable(each.failure)}"
            yield paragraph(text, width=width, first="failed  ", rest=" " * 10)
