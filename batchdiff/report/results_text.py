"""The results of apply, restore and purge as text.

::

    table      guests and totals: only for apply
    remarks    reasons, originals, notes, and guests that were skipped for the same reason
    summary    numbers of guests, and disk space
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.files import own_files
from batchdiff.report.facts import by_status, gained_bytes, size_sums, skipped_alike
from batchdiff.report.fates import original_words
from batchdiff.report.figures import count_of, of_several, size
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, paragraph, table
from batchdiff.units import few, format_size

_FIRST = (Column("guest", Align.LEFT), Column("status", Align.LEFT))
_COLUMNS = (
    *_FIRST,
    Column("overlay\npredicted"),
    Column("overlay\nactual"),
    Column("on\ndisk"),
    Column("original", Align.LEFT),
)
"""Some headings have two lines, so that the table fits into 80 columns if names are short."""

_COLUMNS_WITHOUT_OVERLAYS = (*_FIRST, Column("came back"))

_MOST_ASIDE = 3
"""The maximum number of originals in quarantine that are listed one by one."""

_WORDS = {Status.WOULD_RESTORE: "would be restored", Status.WOULD_PURGE: "would be purged"}


def results_text(outcomes: Sequence[GuestOutcome], *, width: int | None = None) -> str:
    """Return the results of apply for a terminal of ``width`` cells, or for a pipe or file (None)."""
    if not outcomes:
        return "There is nothing to do: the plan has no guests.\n"
    alike = skipped_alike(outcomes)
    together = {name for names in alike.values() for name in names}
    shown = [outcome for outcome in outcomes if outcome.name not in together]
    lines = _table(shown, outcomes, width)
    remarks = [*_remarks(shown, width), *(_skipped(names, why, width) for why, names in alike.items())]
    blocks = [lines, remarks, [_summary(outcomes)]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def undone_text(outcomes: Sequence[GuestOutcome], *, width: int | None = None) -> str:
    """Return the results of restore or purge for a terminal of ``width`` cells, or for a pipe or file (None)."""
    column = max([11, *(len(_word(each.status)) + 2 for each in outcomes)])
    alike = skipped_alike(outcomes)
    lines = []
    for each in outcomes:
        if alike and each.status is Status.SKIPPED:
            continue
        texts = [
            (_word(each.status), each.reason or _fate(each)),
            *(("note", text) for text in each.remarks),
        ]
        lines += [
            paragraph(
                f"{printable(each.name)}: {printable(text)}",
                width=width,
                first=f"{word:<{column}}",
                rest=" " * (column + 2),
            )
            for word, text in texts
        ]
    lines += [_skipped(names, why, width) for why, names in alike.items()]
    return "\n".join([*lines, _summary(outcomes)]) + "\n"


def _table(shown: list[GuestOutcome], outcomes: Sequence[GuestOutcome], width: int | None) -> list[str]:
    if not shown:
        return []
    if any(map(_has_overlay, shown)):
        rows = [_row(outcome) for outcome in shown]
        return table(_COLUMNS, [*rows, _totals_row(outcomes)] if len(outcomes) != 1 else rows, width=width)
    columns = _COLUMNS_WITHOUT_OVERLAYS if any(each.gained_bytes is not None for each in shown) else _FIRST
    brief = [(printable(each.name), each.status.value, size(each.gained_bytes)) for each in shown]
    return table(columns, [row[: len(columns)] for row in brief], width=width)


def _has_overlay(outcome: GuestOutcome) -> bool:
    planned = outcome.predicted_overlay_bytes is not None or outcome.actual_overlay_bytes is not None
    return planned or outcome.original.fate is not Fate.UNTOUCHED


def _word(status: Status) -> str:
    return _WORDS.get(status, status.value)


def _row(outcome: GuestOutcome) -> tuple[str, ...]:
    return (
        printable(outcome.name),
        outcome.status.value,
        size(outcome.predicted_overlay_bytes),
        size(outcome.actual_overlay_bytes),
        size(outcome.actual_overlay_disk_bytes),
        printable(outcome.original.fate.value),
    )


def _fate(outcome: GuestOutcome) -> str:
    words = original_words(outcome)
    if outcome.original.fate is Fate.REBUILT:
        return words  # they are about the guest, not about its original
    is_known = outcome.original.fate is not Fate.UNKNOWN
    return f"{'the original' if is_known else 'the state of the original'} is {words}"


def _totals_row(outcomes: Sequence[GuestOutcome]) -> tuple[str, ...]:
    sums = size_sums(outcomes)
    return ("total", "", size(sums.predicted), size(sums.actual), size(sums.actual_on_disk), "")


def _remarks(outcomes: Sequence[GuestOutcome], width: int | None) -> Iterator[str]:
    aside = [each for each in outcomes if each.original.fate is Fate.QUARANTINED and each.original.aside]
    together = {each.name for each in aside} if len(aside) > _MOST_ASIDE else set()
    for outcome in outcomes:
        texts = [outcome.reason, *outcome.remarks]
        if original_words(outcome) != outcome.original.fate.value and outcome.name not in together:
            texts.append(_fate(outcome))
        yield from _paragraphs(outcome, filter(None, texts), width)
    if together:
        names = few([printable(each.name) for each in aside])
        yield paragraph(
            f"{names}: the originals are quarantined under their names with {own_files.QUARANTINE} appended",
            width=width,
            first=f"{'note':<11}",
            rest=" " * 13,
        )


def _paragraphs(outcome: GuestOutcome, texts: Iterable[str], width: int | None) -> Iterator[str]:
    for text in texts:
        line = f"{printable(outcome.name)}: {printable(text)}"
        yield paragraph(line, width=width, first=f"{_word(outcome.status):<11}", rest=" " * 13)


def _skipped(names: list[str], reason: str, width: int | None) -> str:
    line = f"{printable(few(names))}: {printable(of_several(reason) if len(names) > 1 else reason)}"
    return paragraph(line, width=width, first=f"{Status.SKIPPED.value:<11}", rest=" " * 13)


def _summary(outcomes: Sequence[GuestOutcome]) -> str:
    counts = ", ".join(f"{count} {_word(status)}" for status, count in by_status(outcomes).items())
    return f"{count_of(len(outcomes), 'guest')}: {counts}.{_space(outcomes)}"


def _space(outcomes: Sequence[GuestOutcome]) -> str:
    gained = gained_bytes(outcomes)
    if gained is None:
        return ""
    what = "came back" if gained >= 0 else "of disk space was taken"
    return f" {format_size(abs(gained))} {what}."
