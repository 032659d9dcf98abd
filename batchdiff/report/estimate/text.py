"""An estimate as text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from batchdiff.choices import Verdict
from batchdiff.estimation.estimate import Estimate, GuestEstimate
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.report.facts import guests_not_converted, share
from batchdiff.report.figures import DASH, SAVINGS_COLUMNS, bounded_size, count_of, of_several, percent
from batchdiff.report.printable import printable
from batchdiff.report.table import Column, paragraph, table
from batchdiff.sampling.interval import Interval
from batchdiff.units import few, format_size

_COLUMNS = (*SAVINGS_COLUMNS, Column("saved, 95% interval"))


def estimate_text(estimate: Estimate, width: int | None = None) -> str:
    """Return the estimate for a terminal that is ``width`` cells wide (None: no terminal)."""
    blocks = [
        [paragraph(_heading(estimate), width=width, rest="  ")],
        [
            paragraph(text, width=width, first=f"{label:<10}", rest=" " * 10)
            for label, text in _attention(estimate)
        ],
        _table(estimate, width),
        [paragraph(sentence, width=width) for sentence in _below(estimate)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _heading(estimate: Estimate) -> str:
    template = estimate.template
    what = f"{printable(template.path)} ({template.format}, {format_size(estimate.template_size)})"
    return f"Estimate for {count_of(len(estimate.guests), 'guest')} on the template {what}; this is not a plan"


def _attention(estimate: Estimate) -> Iterator[tuple[str, str]]:
    # Undecided guests have a line of their own below, which "skipped" would contradict.
    decided = [
        guest.plan for guest in estimate.guests if not (guest.is_undecided and guest.plan.verdict is Verdict.SKIP)
    ]
    for verdict, reason, names in guests_not_converted(decided):
        label = {Verdict.REFUSE: "refused", Verdict.SKIP: "skipped"}.get(verdict, "note")
        why = of_several(reason) if len(names) > 1 else reason
        # The table below may lack refused guests, so each is named here.
        named = ", ".join(names) if verdict is Verdict.REFUSE else few(names)
        yield label, f"{printable(named)}: {printable(why)}"
    undecided = [guest.plan.name for guest in estimate.guests if guest.is_undecided]
    if undecided:
        yield (
            "undecided",
            f"{printable(few(undecided))}: the sample does not show whether a plan would"
            f" {'work on it or skip it' if len(undecided) == 1 else 'work on them or skip them'}",
        )
    notes: dict[str, list[str]] = {}
    for guest in estimate.guests:
        if guest.savings and guest.savings.note:
            notes.setdefault(guest.savings.note, []).append(guest.plan.name)
    for note, names in notes.items():
        yield "note", f"{printable(few(names))}: {printable(of_several(note) if len(names) > 1 else note)}"


def _table(estimate: Estimate, width: int | None) -> list[str]:
    sampled = [guest for guest in estimate.guests if guest.saved is not None]
    if not sampled:
        return []
    rows = [_row(guest) for guest in sampled if guest.is_worked_on or guest.is_undecided]
    others = [_row(guest) for guest in sampled if not (guest.is_worked_on or guest.is_undecided)]
    totals = estimate.totals
    if len(estimate.guests) > 1:
        exactness = of_sum(each.savings.exactness for each in sampled if each.is_worked_on and each.savings)
        figures = _savings(totals.saved, exactness, totals.allocated_bytes)
        rows.append(("total", format_size(totals.allocated_bytes), _about(totals.overlay), *figures))
    lines = table(_COLUMNS, [*rows, *others], width=width)
    if others and rows:
        lines.insert(len(rows) + 1, "")  # the rows below are not part of the total
    return lines


def _row(guest: GuestEstimate) -> tuple[str, ...]:
    savings, overlay, saved = guest.savings, guest.overlay, guest.saved
    if savings is None or saved is None:
        return (printable(guest.plan.name), *[DASH] * (len(_COLUMNS) - 1))
    return (
        printable(guest.plan.name),
        format_size(savings.allocated_bytes),
        DASH if overlay is None else _about(overlay),
        *_savings(saved, savings.exactness, savings.allocated_bytes),
    )


def _savings(saved: Interval, exactness: Exactness, allocated: int) -> tuple[str, str, str]:
    """Return the savings, their share of the allocation, and their bounds."""
    part = percent(share(round(saved.estimate), allocated))
    if exactness is Exactness.EXACT:
        return _about(saved), part, _bounds(saved)
    # Here, even a plan has only a bound for the savings, or does not know them at all.
    words, is_unknown = bounded_size(round(saved.estimate), exactness), exactness is Exactness.UNKNOWN
    return words, DASH if is_unknown else part, DASH if is_unknown or saved.is_exact else _bounds(saved)


def _about(figure: Interval) -> str:
    return f"{'' if figure.is_exact else '~'}{format_size(round(figure.estimate))}"


def _bounds(figure: Interval) -> str:
    if figure.is_exact:
        return "exact"
    low, high = format_size(math.floor(figure.low)), format_size(math.ceil(figure.high))
    if low == high:  # a narrow interval of a large size
        return f"{low} ±{format_size(math.ceil(figure.half_width))}"
    return f"{low} to {high}"


def _below(estimate: Estimate) -> Iterator[str]:
    totals = estimate.totals
    if not estimate.read_bytes:
        return
    samples = f" ({count_of(estimate.probes, 'sample')})" if estimate.probes else ""
    read = f"Read {format_size(estimate.read_bytes)}{samples} in {estimate.seconds:.1f} s"
    if estimate.whole_bytes:
        part, whole = percent(estimate.read_bytes / estimate.whole_bytes), format_size(estimate.whole_bytes)
        read += f": {part} of the roughly {whole} that a plan would read"
    yield f"{read}."
    sampled = [guest for guest in estimate.guests if guest.saved is not None]
    if all(guest.is_complete for guest in sampled):
        yield "Everything that metadata cannot settle was read, so a plan would give the same figures."
        if not all(guest.is_exact for guest in sampled):
            yield (
                "A plan, too, only estimates the sizes of compressed overlays: in 95 of 100 cases, the actual"
                " savings are within the interval."
            )
        return
    which = "The total's interval" if len(estimate.guests) > 1 else "That interval"
    yield (
        f"In 95 of 100 cases, the plan's figure is within the interval. {which} extends"
        f" {percent(totals.error)} of the allocated space to either side; `--error` limits that."
    )
