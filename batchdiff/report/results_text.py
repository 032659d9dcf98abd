"""The results of an apply, guest by guest, beside the plan's predictions; and those of restore and purge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.report.facts import by_status, size_sums, skipped_alike
from batchdiff.report.fates import original_words
from batchdiff.report.figures import DASH, count_of, size
from batchdiff.report.form import WIDTH
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, paragraph, table
from batchdiff.units import few

_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("status", Align.LEFT),
    Column("overlay\npredicted"),
    Column("overlay\nactual"),
    Column("off by"),
    Column("on disk\npredicted"),
    Column("on disk\nactual"),
    Column("original", Align.LEFT),
)


def results_text(outcomes: Sequence[GuestOutcome], *, width: int = WIDTH) -> str:
    """Return the outcome of an apply for a terminal that is ``width`` cells wide, with a newline at the end."""
    alike = skipped_alike(outcomes)
    together = {name for names in alike.values() for name in names}
    shown = [outcome for outcome in outcomes if outcome.name not in together]
    rows = [_row(outcome) for outcome in shown]
    if len(outcomes) != 1 and (shown or not outcomes):
        rows.append(_totals_row(outcomes))
    lines = table(_COLUMNS, rows, width=width) if rows else []
    remarks = [*_remarks(shown, width), *(_skipped(names, why, width) for why, names in alike.items())]
    blocks = [lines, remarks, [_summary(outcomes)]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def undone_text(outcomes: Sequence[GuestOutcome], *, width: int = WIDTH) -> str:
    """Return the outcome of a restore or purge for a terminal of ``width`` cells, with a newline at the end."""
    column = max([11, *(len(each.status.value) + 2 for each in outcomes)])
    lines = [
        paragraph(
            f"{printable(each.name)}: {printable(each.reason or original_words(each))}",
            width=width,
            first=f"{each.status.value:<{column}}",
            rest=" " * (column + 2),
        )
        for each in outcomes
    ]
    remarks = [line for each in outcomes for line in _paragraphs(each, each.remarks, width)]
    return "\n".join([*lines, *remarks, _summary(outcomes)]) + "\n"


def _row(outcome: GuestOutcome) -> tuple[str, ...]:
    return (
        printable(outcome.name),
        outcome.status.value,
        size(outcome.predicted_overlay_bytes),
        size(outcome.actual_overlay_bytes),
        _difference(outcome.predicted_overlay_bytes, outcome.actual_overlay_bytes),
        size(outcome.predicted_overlay_disk_bytes),
        size(outcome.actual_overlay_disk_bytes),
        printable(outcome.original.fate.value),
    )


def _totals_row(outcomes: Sequence[GuestOutcome]) -> tuple[str, ...]:
    sums = size_sums(outcomes)
    return (
        "total",
        "",
        size(sums.predicted),
        size(sums.actual),
        _difference(sums.predicted, sums.actual),
        size(sums.predicted_on_disk),
        size(sums.actual_on_disk),
        "",
    )


def _difference(predicted: int | None, actual: int | None) -> str:
    if predicted is None or actual is None:
        return DASH
    return f"+{size(actual - predicted)}" if actual > predicted else size(actual - predicted)


def _remarks(outcomes: Iterable[GuestOutcome], width: int) -> Iterator[str]:
    for outcome in outcomes:
        texts, original = [outcome.reason, *outcome.remarks], original_words(outcome)
        if original != outcome.original.fate.value:
            texts.append(f"the original is {original}")
        yield from _paragraphs(outcome, filter(None, texts), width)


def _paragraphs(outcome: GuestOutcome, texts: Iterable[str], width: int) -> Iterator[str]:
    for text in texts:
        line = f"{printable(outcome.name)}: {printable(text)}"
        yield paragraph(line, width=width, first=f"{outcome.status.value:<11}", rest=" " * 13)


def _skipped(names: list[str], reason: str, width: int) -> str:
    line = f"{printable(few(names))}: {printable(reason)}"
    return paragraph(line, width=width, first=f"{Status.SKIPPED.value:<11}", rest=" " * 13)


def _summary(outcomes: Sequence[GuestOutcome]) -> str:
    said = [f"{count} {status}" for status, count in by_status(outcomes).items()]
    return f"{count_of(len(outcomes), 'guest')}: {', '.join(said)}." if said else "Nothing was done."
