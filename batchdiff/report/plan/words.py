"""The wording of a plan's report, which all forms for people share: the cells of its table, and its sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchdiff.choices import Retire
from batchdiff.files.filenames import shell_word
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import GuestPlan, GuestToConvert, Savings, Totals
from batchdiff.report.facts import PlanFacts, guests_not_converted, inexact, share
from batchdiff.report.figures import DASH, bounded_size, count_of, estimated_size, percent
from batchdiff.report.plan.comparison import compared, sentences
from batchdiff.report.plan.dangers import dangers
from batchdiff.report.printable import printable
from batchdiff.units import few, format_size

ATTENTION = "Refused, skipped, or worth a look"

STALE = "WARNING: this plan is stale. `batchdiff apply` refuses what has changed; run `batchdiff plan` again."


def heading(facts: PlanFacts) -> tuple[str, str]:
    """Return two lines: guests and template, and the origin of the plan."""
    plan, source = facts.plan, facts.plan.template.source
    what = f"{source.format}, {format_size(plan.template.virtual_size)}"
    return (
        f"{count_of(len(plan.guests), 'guest')} on the template {printable(source.path)} ({what})",
        f"planned {printable(plan.created)} from {printable(plan.manifest_path)}",
    )


def guest_cells(guest: GuestPlan) -> tuple[str, ...]:
    """Return a guest's row: name, allocated, overlay, saved, share, cluster, verdict."""
    cluster, verdict = guest.options.cluster_size, guest.verdict.value
    last = ("auto" if cluster is None else format_size(cluster), verdict)
    if guest.diff is None:
        return (printable(guest.name), DASH, DASH, DASH, DASH, *last)
    savings = guest.diff.savings
    return (
        printable(guest.name),
        format_size(savings.allocated_bytes),
        estimated_size(savings.overlay_bytes, savings.overlay_error_bytes),
        bounded_size(savings.saved_bytes, savings.exactness, savings.overlay_error_bytes),
        _share(savings),
        *last,
    )


def total_cells(facts: PlanFacts) -> tuple[str, ...]:
    """Return the last row of a table of several guests: the sums over those that are reported."""
    totals = facts.totals
    is_whole = totals == facts.plan.totals
    chosen = (
        facts.savings
        if is_whole
        else [each.diff.savings for each in facts.guests if isinstance(each, GuestToConvert)]
    )
    error = sum(each.overlay_error_bytes for each in chosen)
    return (
        "total" if is_whole else "of these",
        format_size(totals.allocated_bytes),
        estimated_size(totals.overlay_bytes, error),
        bounded_size(totals.saved_bytes, totals.exactness, error),
        _share(totals),
        "",
        f"{totals.convert} of {totals.guests}",
    )


def _share(figures: Savings | Totals) -> str:
    if figures.exactness is Exactness.UNKNOWN:
        return DASH
    return percent(share(figures.saved_bytes, figures.allocated_bytes))


def reasons(facts: PlanFacts) -> Iterator[tuple[str, str]]:
    """Yield the label warning, or a verdict, with a sentence: for a verdict, the guests that have it and why."""
    yield from (("warning", f"{printable(text)}.") for text in dangers(facts.plan))
    for verdict, reason, names in guests_not_converted(facts.guests):
        yield verdict.value, f"{few(list(map(printable, names)))}: {printable(reason) or 'no reason given'}"


def how_saved(facts: PlanFacts) -> Iterator[str]:
    """Yield why `saved` is not `allocated` minus `overlay`, if it is not."""
    chosen = facts.savings
    if facts.overlay_disk_bytes != facts.plan.totals.overlay_bytes:
        what, why = (
            ("the overlay takes", "its file has")
            if len(chosen) == 1
            else ("the overlays take", "their files have")
        )
        bounded = any(savings.exactness is not Exactness.EXACT for savings in chosen)
        about = "about " if facts.error_bytes else "up to " if bounded else ""
        on_disk = format_size(facts.overlay_disk_bytes)
        yield f'"saved" counts what {what} on disk: {about}{on_disk}, because {why} holes.'
    if facts.has_shared_space:
        yield '"saved" does not count space that is shared with other files, by reflinks or hard links.'


def not_exact(facts: PlanFacts) -> Iterator[str]:
    """Yield why savings are not known exactly."""
    for each in inexact(facts.plan.to_convert):
        saved = bounded_size(each.saved_bytes, each.exactness)
        yield f'{few(list(map(printable, each.names)))}: "saved" is {saved}: {printable(each.note)}.'
    totals = facts.plan.totals
    if totals.note:
        saved = bounded_size(totals.saved_bytes, totals.exactness)
        yield f'total: "saved" is {saved}: {printable(totals.note)}.'


def next_steps(facts: PlanFacts) -> Iterator[str]:
    """Yield what `batchdiff apply` will do, and the space that it needs."""
    plan, chosen = facts.plan, facts.plan.to_convert
    if not chosen:
        yield "There is nothing to convert."
        return
    verify = "verify it against its original" if len(chosen) == 1 else "verify each against its original"
    yield f"`batchdiff apply` will write {_where(chosen)}, {verify}, {_fate(facts, len(chosen))}."
    yield _space(facts, len(chosen))
    if plan.protect_template:
        text = "The template will lose its write permission: a write to it would damage every overlay."
        copied = plan.totals.template_copy_bytes
        cost = f" That copies it to the upper layer of its overlayfs: {format_size(copied)}." if copied else ""
        yield text + cost
    if facts.error_bytes:
        yield "~ marks the estimated size of a compressed overlay, ± its largest possible error."


def main_figures(facts: PlanFacts) -> Iterator[tuple[str, str, str]]:
    """Yield what an operator wants to know first: a label, a figure, and a remark on it, which may be empty."""
    totals = facts.plan.totals
    saved = bounded_size(totals.saved_bytes, totals.exactness, facts.error_bytes)
    yield "comes back", saved, f"{_share(totals)} of {format_size(totals.allocated_bytes)}"
    space = format_size(facts.space_at_once(facts.jobs))
    yield "needed at the worst moment", space if facts.savings else DASH, "free disk space, while apply runs"
    counts = {"skipped": totals.skip, "refused": totals.refuse}
    others = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    yield "guests to convert", f"{totals.convert} of {totals.guests}", ", ".join(others)
    yield "originals", *_RETIRED[facts.plan.retire]


_RETIRED = {
    Retire.KEEP: ("kept", "the space comes back once you delete them"),
    Retire.QUARANTINE: ("quarantined", "the space comes back with batchdiff purge"),
    Retire.DELETE: ("deleted", "each after its overlay is verified"),
}


def next_commands(facts: PlanFacts) -> list[tuple[str, str]]:
    """Return what to run next: a purpose and a command, to be copied."""
    if not facts.path or not facts.savings:
        return []
    plan = shell_word(facts.path)
    return [
        ("Convert the guests:", f"batchdiff apply {plan}"),
        ("See how far it has got:", f"batchdiff status {plan}"),
        ("Undo it:", f"batchdiff restore {plan}"),
    ]


def since(facts: PlanFacts) -> Iterator[str]:
    """Yield what has changed since an older plan, if there is one to compare with."""
    if facts.older is not None:
        yield from sentences(compared(facts.older, facts.plan))


def _space(facts: PlanFacts, guests: int) -> str:
    """Return the space that apply needs with the usual number of guests at once, and with one at a time."""
    usual, least = facts.space_at_once(facts.jobs), facts.space_at_once(1)
    up_to = "about" if facts.plan.totals.exactness is Exactness.UNKNOWN else "up to"
    text = f"It needs {up_to} {format_size(usual)} of free disk space at once"
    if usual == least:
        return f"{text}."
    how_many = f"{min(facts.jobs, guests)} guests in progress (`-j {facts.jobs}`)"
    fewer = f"{format_size(least)} with `-j 1`. If there is less space, it works on fewer guests at once."
    return f"{text}, with {how_many}; {fewer}"


def _where(guests: Sequence[GuestPlan]) -> str:
    folders = {_folder(guest.overlay_path) for guest in guests}
    what = count_of(len(guests), "overlay")
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


def _fate(facts: PlanFacts, count: int) -> str:
    plan = facts.plan
    originals = "the original" if count == 1 else "the originals"
    them = "it" if count == 1 else "them"
    match plan.retire:
        case Retire.KEEP:
            return f"and keep {originals}: {_later(plan.totals, them)}"
        case Retire.QUARANTINE:
            return f"and then quarantine {originals} as NAME.batchdiff-original: {_later(plan.totals, them)}"
        case Retire.DELETE if _costs(plan.totals):
            return f"and then delete {originals}: {_cost(plan.totals)} will be free than now"
        case Retire.DELETE:
            return f"and then delete {originals}, which frees {_saved(plan.totals)}"


def _later(totals: Totals, originals: str) -> str:
    if _costs(totals):
        return f"even once you delete {originals}, {_cost(totals)} will be free than now"
    the = "the " if totals.exactness is Exactness.EXACT else ""
    come = "comes" if totals.exactness is Exactness.UNKNOWN else "come"
    return f"{the}{_saved(totals)} {come} back only once you delete {originals}"


def _costs(totals: Totals) -> bool:
    """Return True if the overlays take more than the originals, which can happen on a new template."""
    return totals.saved_bytes < 0 and totals.exactness is not Exactness.UNKNOWN


def _cost(totals: Totals) -> str:
    return f"{format_size(-totals.saved_bytes)} less space"


def _saved(totals: Totals) -> str:
    if totals.exactness is Exactness.UNKNOWN:
        return "an unknown amount of space"
    return bounded_size(totals.saved_bytes, totals.exactness)
