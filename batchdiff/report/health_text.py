"""The findings of `batchdiff verify`, as text."""

from __future__ import annotations

from collections.abc import Sequence

from batchdiff.applying.results.finding import Finding
from batchdiff.report.facts import by_health
from batchdiff.report.figures import count_of
from batchdiff.report.printable import printable
from batchdiff.report.table import paragraph


def health_text(findings: Sequence[Finding], *, width: int | None = None) -> str:
    """Return the findings for a terminal ``width`` cells wide (None: no terminal), with a newline at the end."""
    lines = [
        paragraph(
            f"{printable(each.name)}: {printable(each.why)}",
            width=width,
            first=f"{each.health.value:<8} ",
            rest=" " * 11,
        )
        for each in findings
    ]
    said = ", ".join(f"{number} {health}" for health, number in by_health(findings).items())
    return "\n".join([*lines, "", f"{count_of(len(findings), 'file')}: {said}."]) + "\n"
