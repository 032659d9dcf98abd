"""The wording of a plan's report, which all forms for people share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from batchdiff.applying.journal.records import Fate
from batchdiff.choices import Retire, Strategy, Verdict
from batchdiff.files.filenames import shell_path
from batchdiff.image.storage.exactness import UNKNOWN_AMOUNT, Exactness
from batchdiff.plan.plan import GuestPlan, GuestToConvert, Totals
from batchdiff.plan.totals import totals_of
from batchdiff.report.facts import PlanFacts, guests_not_converted, inexact
from batchdiff.report.figures import DASH, bound_of, bounded_size, count_of, of_several, shortfall
from batchdiff.report.plan.comparison import compared, sentences
from batchdiff.report.plan.dangers import dangers
from batchdiff.report.plan.done import done, done_figures, space_figure
from batchdiff.report.plan.outliers import outliers_first
from batchdiff.report.plan.remarks import of_another_template, remarks
from batchdiff.report.plan.rows import is_rounded, share_words
from batchdiff.report.plan.strategies import sharing_done, sharing_next
from batchdiff.report.printable import printable
from batchdiff.units import few, format_size

ATTENTION = "Refused, skipped, or worth a look"

STALE = "WARNING: this plan is stale. `batchdiff apply` refuses changed images; run `batchdiff plan` again."


def heading(facts: PlanFacts) -> tuple[str, str]:
    """Return a line about the guests and the template, and one about the origin of the plan."""
    plan, source = facts.plan, facts.plan.template.source
    what = f"{source.format}, {format_size(plan.template.virtual_size)}"
    return (
        f"{count_of(len(plan.guests), 'guest')} on the template {printable(source.path)} ({what})",
        f"planned {printable(plan.created)} from {printable(plan.manifest_path)}",
    )


def reasons(facts: PlanFacts) -> Iterator[tuple[str, str]]:
    """Yield verdicts, each with a text that names guests and the reason."""
    for verdict, reason, names in guests_not_converted(outliers_first(facts.guests)):
        why = of_several(reason) if len(names) > 1 else reason
        yield verdict.value, f"{few(list(map(printable, names)))}: {printable(why) or 'no reason given'}"


def attention(facts: PlanFacts) -> Iterator[tuple[str, str]]:
    """Yield labels and texts, the most urgent first."""
    found = list(reasons(facts))
    yield from (each for each in found if each[0] == Verdict.REFUSE.value)
    of_overlays = dangers(facts.plan) if facts.has_overlays_in_view else ()
    yield from (("warning", f"{printable(text)}.") for text in of_overlays)
    yield from (("warning", text) for text in of_another_template(facts))
    yield from (each for each in found if each[0] != Verdict.REFUSE.value)
    yield from (("note", text) for text in remarks(facts))


def nothing_chosen(facts: PlanFacts) -> str:
    """Return a sentence if the report has no guests; otherwise an empty string."""
    if facts.guests:
        return ""
    if not facts.plan.guests:
        return "The plan has no guests."
    counts = Counter(guest.verdict.value for guest in facts.plan.guests)
    found = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"No guest of the plan has a verdict chosen with --only; the verdicts are: {found}."


def how_saved(facts: PlanFacts) -> Iterator[str]:
    """Yield explanations of the savings in the table."""
    chosen = facts.savings
    if not facts.has_conversions_in_view:
        return
    if facts.has_overlays_in_view and facts.overlay_disk_bytes != facts.predicted.overlay_bytes:
        is_one = len(chosen) == 1
        takes, whose = ("overlay takes", "its file") if is_one else ("overlays take", "their files")
        why = f"not on the length of {whose}, which {'has' if is_one else 'have'} holes"
        if facts.overlay_disk_bytes > facts.predicted.overlay_bytes:
            why = f"not on the length of {whose}"
        bounded = any(savings.exactness is not Exactness.EXACT for savings in chosen)
        about = "about " if facts.error_bytes else "up to " if bounded else ""
        on_disk = format_size(facts.overlay_disk_bytes) + ("" if is_one else " in all")
        yield f'"saved" is based on the disk space that the {takes}, {about}{on_disk}, {why}.'
    if facts.has_overlays_in_view and facts.has_shared_space:
        yield '"saved" does not count space that is shared with other files, by reflinks or hard links.'
    if facts.totals.template_copy_bytes:
        copied = format_size(facts.totals.template_copy_bytes)
        yield (
            f'The total of "saved" is {copied} less than the sum of its column: a copy of the template takes that'
            " space."
        )
    if is_rounded(facts):
        yield "Totals are sums of exact sizes, and each size is rounded, so the last digits may not add up."


def not_exact(facts: PlanFacts) -> Iterator[str]:
    """Yield why savings are not known exactly."""
    if not facts.has_conversions_in_view:
        return
    overlays = facts.to_convert if facts.has_overlays_in_view else ()
    for each in inexact([*overlays, *facts.plan.to_share]):
        saved = bound_of(each.saved_bytes, each.exactness, len(each.names))
        why = of_several(each.note) if len(each.names) > 1 else each.note
        yield f'{few(list(map(printable, each.names)))}: "saved" is {saved}, because {printable(why)}.'
    totals = facts.predicted
    if totals.note:
        saved = bound_of(totals.saved_bytes, totals.exactness)
        yield f'total: "saved" is {saved}, because {printable(totals.note)}.'


def next_steps(facts: PlanFacts) -> Iterator[str]:
    """Yield what apply has done and will do."""
    if not facts.has_conversions_in_view:
        return
    yield from done(facts)
    yield from sharing_done(facts)
    yield from sharing_next(facts)
    plan, chosen = facts.plan, facts.pending
    if not chosen:
        if not (facts.is_applied or plan.to_share):
            chosen_ways = {guest.strategy for guest in plan.guests}
            work = " or to ".join(verb for way, verb in _WORK.items() if way in chosen_ways)
            yield f"There is nothing to {work or _WORK[Strategy.OVERLAY]}."
        return
    verify = "verify it against its original" if len(chosen) == 1 else "verify each against its original"
    yield f"`batchdiff apply` will write {_where(chosen)}, {verify}, {_fate(facts, chosen)}."
    yield _space(facts, len(chosen))
    if plan.protect_template and not facts.read_only:
        text = "The template will lose its write permission: a write to it would damage every overlay."
        copied = plan.totals.template_copy_bytes
        copying = (
            f" Removing that permission copies {format_size(copied)} to the upper layer of the template's"
            " overlayfs."
        )
        yield text + (copying if copied else "")
    if facts.error_bytes:
        yield (
            "~ marks the estimated size of a compressed overlay; in 19 of 20 cases, its error is at most the"
            " number after ±."
        )


_WORK = {Strategy.OVERLAY: "convert", Strategy.SHARE: "share"}


def main_figures(facts: PlanFacts) -> Iterator[tuple[str, str, str]]:
    """Yield the main figures: label, figure, and a remark, which may be empty."""
    totals = facts.plan.totals
    if facts.is_applied:
        yield from done_figures(facts)
        return
    saved = bounded_size(totals.saved_bytes, totals.exactness, facts.error_bytes)
    if lost := shortfall(totals.saved_bytes, totals.exactness):
        yield "comes back", "nothing", f"there will be {lost} than now"
    else:
        part = f"{share_words(totals)} ".removeprefix(f"{DASH} ")
        yield "comes back", saved, f"{part}of {format_size(totals.allocated_bytes)}"
    yield space_figure(facts)
    counts = {"skipped": totals.skip, "refused": totals.refuse}
    others = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    if totals.share:
        yield "guests to share", f"{totals.share} of {totals.guests}", "in place, without an overlay"
    if totals.convert or not totals.share:
        yield "guests to convert", f"{totals.convert} of {totals.guests}", ", ".join(others)
    if facts.savings:
        ways = {guest.retired(facts.plan.retire) for guest in facts.plan.to_convert}
        what, when = _RETIRED[ways.pop() if len(ways) == 1 else facts.plan.retire]
        if all(guest.is_on_device for guest in facts.plan.to_convert):
            when = f"the space comes back once you {_delete_devices('them')}"
        yield "originals", what, f"{when}; block devices are kept" if ways else when


def _delete_devices(them: str) -> str:
    return f"remove {them}, or discard what is on {them}"


_RETIRED = {
    Retire.KEEP: ("kept", "the space comes back once you delete them"),
    Retire.QUARANTINE: ("quarantined", "the space comes back with batchdiff purge"),
    Retire.DELETE: ("deleted", "each after its overlay is verified"),
}


def next_commands(facts: PlanFacts) -> list[tuple[str, str]]:
    """Return the commands to run next, each after its purpose."""
    has_work = facts.plan.to_convert or facts.plan.to_share
    if not facts.path or not has_work or not facts.has_conversions_in_view:
        return []
    plan = shell_path(facts.path)
    do = "Convert the guests:" if facts.pending else "Let the guests share blocks:"
    if facts.pending and facts.to_share:
        do = "Convert guests, and let the others share blocks:"
    convert = [(do, f"batchdiff apply {plan}")] if facts.pending or facts.to_share else []
    fates = {each.fate for each in facts.conversions.values()}
    free = [("Delete the originals in quarantine:", f"batchdiff purge {plan} --used")]
    change = [("See what must change in the VMs' definitions:", f"batchdiff definitions {plan}")]
    return [
        *convert,
        *(change if facts.conversions else []),
        ("See how far apply has got:", f"batchdiff status {plan}"),
        *(free if Fate.QUARANTINED in fates or facts.older_originals else []),
        *([("Undo the conversion:", f"batchdiff restore {plan}")] if facts.plan.to_convert else []),
    ]


def since(facts: PlanFacts) -> Iterator[str]:
    """Yield the changes since the older plan, if there is one."""
    if facts.older is not None:
        yield from sentences(compared(facts.older, facts.plan), facts.older_conversions)


def _space(facts: PlanFacts, guests: int) -> str:
    usual, least = facts.space_at_once(facts.jobs), facts.space_at_once(1)
    up_to = "about" if facts.plan.totals.exactness is Exactness.UNKNOWN else "up to"
    text = f"While apply runs, it needs {up_to} {format_size(usual)} of free disk space"
    if usual == least:
        return f"{text}."
    how_many = f"{min(facts.jobs, guests)} guests in progress (`-j {facts.jobs}`)"
    fewer = f"With less than {format_size(usual)} free, it works on fewer guests at a time."
    return f"{text} with {how_many}, or {format_size(least)} with `-j 1`. {fewer}"


def _where(guests: Sequence[GuestPlan]) -> str:
    folders = {_folder(guest.overlay_path) for guest in guests}
    what = count_of(len(guests), "overlay")
    in_place = sum(guest.overlay_path == guest.source.path for guest in guests)
    if in_place == len(guests):
        return f"{what} in place of {'its guest' if len(guests) == 1 else 'their guests'}"
    if in_place:
        return f"{what}, {in_place} of them in place of {'its guest' if in_place == 1 else 'their guests'}"
    if all(_folder(guest.overlay_path) == _folder(guest.source.path) for guest in guests):
        return f"{what} beside {'its guest' if len(guests) == 1 else 'their guests'}"
    if len(folders) == 1:
        return f"{what} in {printable(folders.pop())}"
    return f"{what} in {len(folders)} folders"


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _fate(facts: PlanFacts, chosen: Sequence[GuestToConvert]) -> str:
    originals, them = ("the original", "it") if len(chosen) == 1 else ("the originals", "them")
    totals, retire = facts.plan.totals, facts.plan.retire
    files = [guest for guest in chosen if not guest.is_on_device]
    is_mixed = retire is not Retire.KEEP and 0 < len(files) < len(chosen)  # a remark covers the others
    if is_mixed:
        one = len(files) == 1
        originals, them = (
            ("the original that is a file", "it") if one else ("those originals that are files", "them")
        )
        chosen = files
    elif not files:
        retire = Retire.KEEP
    if facts.is_applied or facts.plan.to_share or is_mixed:
        totals = totals_of(chosen, retire)
    delete = f"delete {them}" if files else _delete_devices(them)
    match retire:
        case Retire.KEEP:
            return f"and keep {originals}: {_later(totals, f'only once you {delete}', delete)}"
        case Retire.QUARANTINE:
            later = _later(totals, "only with `batchdiff purge`", f"delete {them}")
            under = ", under the name" if is_mixed else " as"
            return f"and then quarantine {originals}{under} NAME.batchdiff-original: {later}"
        case Retire.DELETE if lost := shortfall(totals.saved_bytes, totals.exactness):
            return f"and then delete {originals}: there will be {lost} than now"
        case Retire.DELETE:
            return f"and then delete {originals}, which frees {_saved(totals)}"


def _later(totals: Totals, when: str, then: str) -> str:
    if lost := shortfall(totals.saved_bytes, totals.exactness):
        return f"even after you {then}, there will be {lost} than now"
    the = "the " if totals.exactness is Exactness.EXACT else ""
    return f"{the}{_saved(totals)} comes back {when}"


def _saved(totals: Totals) -> str:
    if totals.exactness is Exactness.UNKNOWN:
        return UNKNOWN_AMOUNT
    return bounded_size(totals.saved_bytes, totals.exactness)
