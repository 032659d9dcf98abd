"""A plan as text for a terminal, for the operator to read before ``batchdiff apply``.

::

    heading        the template, and the number of guests
    warnings       images that have changed since planning
    table          guests that were compared or refused, and the totals; below it why they do not add up
    notes          why guests are not converted; those skipped for the same reason together
    next           the space that apply needs, and what it will do
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchdiff.choices import Retire
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import GuestPlan, Plan, Savings, Totals, Verdict
from batchdiff.plan.totals import PLANNED_AT_ONCE, peak_extra_bytes
from batchdiff.report.figures import (
    NOTHING,
    bounded_size,
    counted,
    error_bytes,
    estimated_size,
    percent,
    share,
)
from batchdiff.report.printable import printable
from batchdiff.report.remarks import remarks
from batchdiff.report.table import Align, Column, paragraph, table
from batchdiff.units import few, format_size

_COLUMNS = (
    Column("guest", Align.LEFT),
    Column("allocated"),
    Column("overlay"),
    Column("saved"),
    Column("share"),
    Column("cluster"),
    Column("verdict", Align.LEFT),
)


def plan_text(plan: Plan, *, stale: Sequence[str] = (), width: int = 100, jobs: int = PLANNED_AT_ONCE) -> str:
    """Return the savings report of a plan, with a newline at the end.

    ``stale`` has a sentence for each image that has changed since planning; ``width`` is the terminal's, in cells;
    ``jobs`` is the number of guests that apply without ``--jobs`` has in progress at once.
    """
    blocks = [
        list(_heading(plan, width)),
        list(_stale(stale, width)),
        _table(plan, width),
        list(_how_saved(plan, width)),
        list(_notes(plan, width)),
        list(_next(plan, width, jobs)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _heading(plan: Plan, width: int) -> Iterator[str]:
    source = plan.template.source
    what = f"{source.format}, {format_size(plan.template.virtual_size)}"
    text = f"{counted(len(plan.guests), 'guest')} on the template {printable(source.path)} ({what})"
    yield paragraph(text, width=width, rest="  ")
    text = f"planned {printable(plan.created)} from {printable(plan.manifest_path)}"
    yield paragraph(text, width=width, rest="  ")


def _stale(notices: Sequence[str], width: int) -> Iterator[str]:
    if not notices:
        return
    text = "WARNING: this plan is stale. `batchdiff apply` refuses what has changed; run `batchdiff plan` again."
    yield paragraph(text, width=width, rest="  ")
    for notice in notices:
        yield paragraph(printable(notice), width=width, first="  - ", rest="    ")


def _table(plan: Plan, width: int) -> list[str]:
    rows = [_row(guest) for guest in plan.guests if guest.diff is not None or guest.verdict is Verdict.REFUSE]
    if not rows:
        return []
    if len(plan.guests) != 1:
        rows.append(_totals_row(plan))
    return table(_COLUMNS, rows, width=width)


def _row(guest: GuestPlan) -> tuple[str, ...]:
    cluster, verdict = guest.options.cluster_size, guest.verdict.value
    last = ("auto" if cluster is None else format_size(cluster), verdict)
    if guest.diff is None:
        return (printable(guest.name), NOTHING, NOTHING, NOTHING, NOTHING, *last)
    savings = guest.diff.savings
    return (
        printable(guest.name),
        format_size(savings.allocated_bytes),
        estimated_size(savings.overlay_bytes, savings.overlay_error_bytes),
        bounded_size(savings.saved_bytes, savings.exactness, savings.overlay_error_bytes),
        _share(savings),
        *last,
    )


def _totals_row(plan: Plan) -> tuple[str, ...]:
    totals = plan.totals
    return (
        "total",
        format_size(totals.allocated_bytes),
        estimated_size(totals.overlay_bytes, error_bytes(plan.to_convert)),
        bounded_size(totals.saved_bytes, totals.exactness, error_bytes(plan.to_convert)),
        _share(totals),
        "",
        f"{totals.convert} of {totals.guests}",
    )


def _share(figures: Savings | Totals) -> str:
    if figures.exactness is Exactness.UNKNOWN:
        return NOTHING
    return percent(share(figures.saved_bytes, figures.allocated_bytes))


def _notes(plan: Plan, width: int) -> Iterator[str]:
    for verdict, reason, names in _reasons(plan.guests):
        text = f"{few(names)}: {printable(reason) or 'no reason given'}"
        yield paragraph(text, width=width, first=f"{verdict.value:<8}", rest=" " * 10)
    for text in remarks(plan):
        yield paragraph(text, width=width, first=f"{'note':<8}", rest=" " * 10)


def _reasons(guests: Sequence[GuestPlan]) -> Iterator[tuple[Verdict, str, list[str]]]:
    """Yield why guests are not converted, in their order; guests skipped for the same reason come together."""
    skipped: dict[str, list[str]] = {}
    for guest in guests:
        if guest.verdict is Verdict.SKIP:
            skipped.setdefault(guest.reason, []).append(printable(guest.name))
    for guest in guests:
        if guest.verdict is Verdict.SKIP:
            if names := skipped.pop(guest.reason, []):
                yield guest.verdict, guest.reason, names
        elif guest.reason or guest.verdict is not Verdict.CONVERT:
            yield guest.verdict, guest.reason, [printable(guest.name)]


def _how_saved(plan: Plan, width: int) -> Iterator[str]:
    """Yield why `saved` is not `allocated` less `overlay`, if it is not."""
    chosen = [guest.diff.savings for guest in plan.to_convert]
    on_disk = sum(savings.overlay_disk_bytes for savings in chosen)
    if on_disk != plan.totals.overlay_bytes:
        what, why = (
            ("the overlay takes", "its file has")
            if len(chosen) == 1
            else ("the overlays take", "their files have")
        )
        bounded = any(savings.exactness is not Exactness.EXACT for savings in chosen)
        about = "about " if error_bytes(plan.to_convert) else "up to " if bounded else ""
        text = f"saved counts what {what} on disk: {about}{format_size(on_disk)}, because {why} holes."
        yield paragraph(text, width=width)
    if any(savings.saved_bytes != savings.allocated_bytes - savings.overlay_disk_bytes for savings in chosen):
        text = "saved does not count space that is shared with other files, by reflinks or hard links."
        yield paragraph(text, width=width)
    yield from (paragraph(text, width=width, rest="  ") for text in _not_exact(plan))


def _not_exact(plan: Plan) -> Iterator[str]:
    """Yield why savings are not known exactly, guests with the same reason together."""
    alike: dict[tuple[Exactness, str], list[tuple[str, int]]] = {}
    for guest in plan.to_convert:
        savings = guest.diff.savings
        if savings.exactness is not Exactness.EXACT:
            key = savings.exactness, savings.note
            alike.setdefault(key, []).append((printable(guest.name), savings.saved_bytes))
    for (exactness, note), guests in alike.items():
        saved = bounded_size(sum(size for _, size in guests), exactness)
        yield f"{few([name for name, _ in guests])}: saved is {saved}: {printable(note)}."
    if plan.totals.note:
        saved = bounded_size(plan.totals.saved_bytes, plan.totals.exactness)
        yield f"total: saved is {saved}: {printable(plan.totals.note)}."


def _next(plan: Plan, width: int, jobs: int) -> Iterator[str]:
    chosen = plan.to_convert
    if not chosen:
        yield "There is nothing to convert."
        return
    verify = "verify it against its original" if len(chosen) == 1 else "verify each against its original"
    text = f"`batchdiff apply` will write {_where(chosen)}, {verify}, {_fate(plan, len(chosen))}."
    yield paragraph(text, width=width)
    yield paragraph(_space(plan, jobs), width=width)
    if plan.protect_template:
        text = "The template will lose its write permission: a write to it would damage every overlay."
        copied = plan.totals.template_copy_bytes
        cost = f" That copies it to the upper layer of its overlayfs: {format_size(copied)}." if copied else ""
        yield paragraph(text + cost, width=width)
    if error_bytes(plan.to_convert):
        text = "~ marks the estimated size of a compressed overlay, ± the most that it may be off."
        yield paragraph(text, width=width)


def _space(plan: Plan, jobs: int) -> str:
    """Say how much space apply takes, and how much less it makes do with if there is not so much."""
    savings = [guest.diff.savings for guest in plan.to_convert]
    usual, least = (
        peak_extra_bytes(savings, plan.retire, at_once=number) + plan.totals.template_copy_bytes
        for number in (jobs, 1)
    )
    up_to = "about" if plan.totals.exactness is Exactness.UNKNOWN else "up to"
    text = f"It needs {up_to} {format_size(usual)} of free disk space at once"
    if usual == least:
        return f"{text}."
    how_many = f"{min(jobs, len(savings))} guests in progress (`-j {jobs}`)"
    fewer = f"{format_size(least)} with `-j 1`. If there is less space, it takes fewer guests at once."
    return f"{text}, with {how_many}; {fewer}"


def _where(guests: Sequence[GuestPlan]) -> str:
    folders = {_folder(guest.overlay_path) for guest in guests}
    what = counted(len(guests), "overlay")
    in_place = sum(guest.overlay_path == guest.source.path for guest in guests)
    if in_place == len(guests):
        return f"{what} in the place of {'its guest' if len(guests) == 1 else 'their guests'}"
    if in_place:
        return f"{what}, {in_place} of them in the place of {'its guest' if in_place == 1 else 'their guests'}"
    if all(_folder(guest.overlay_path) == _folder(guest.source.path) for guest in guests):
        return f"{what} beside {'its guest' if len(guests) == 1 else 'their guests'}"
    if len(folders) == 1:
        return f"{what} in {printable(folders.pop())}"
    return f"{what} in {len(folders)} folders"


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _fate(plan: Plan, count: int) -> str:
    originals = "the original" if count == 1 else "the originals"
    them = "it" if count == 1 else "them"
    match plan.retire:
        case Retire.KEEP:
            return f"and keep {originals}: {_later(plan.totals, them)}"
        case Retire.QUARANTINE:
            return f"and then quarantine {originals} as NAME.batchdiff-original: {_later(plan.totals, them)}"
        case Retire.DELETE:
            return f"and then delete {originals}, which frees {_saved(plan.totals)}"


def _later(totals: Totals, originals: str) -> str:
    the = "the " if totals.exactness is Exactness.EXACT else ""
    come = "comes" if totals.exactness is Exactness.UNKNOWN else "come"
    return f"{the}{_saved(totals)} {come} back only once you delete {originals}"


def _saved(totals: Totals) -> str:
    if totals.exactness is Exactness.UNKNOWN:
        return "an unknown amount of space"
    return bounded_size(totals.saved_bytes, totals.exactness)
