"""Determine the state of each guest and what to do next. Pure."""

from __future__ import annotations

import enum

from batchdiff.applying.journal.records import STALE_PLAN, Fate, Goal, GuestState, History, Step
from batchdiff.applying.results.conversion import freed_by_sharing
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.choices import Retire, Verdict
from batchdiff.files.filenames import shell_option, shell_word
from batchdiff.frozen import frozen
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Plan, UntouchedGuest
from batchdiff.units import few

_PLAN_AGAIN = "plan again: an image has changed since it was planned, so apply would fail again"

_VERDICTS = {Verdict.SKIP: "skipped", Verdict.REFUSE: "refused"}


class TemplateIs(enum.Enum):
    """The state of the template's files, by their metadata."""

    THERE = "unchanged, as far as size and mtime show"
    WRITTEN_TO = "changed in size or mtime"
    MISSING = "missing"
    UNKNOWN = "not known, because a file cannot be examined"


class Written(enum.Flag):
    """Which images of a guest are not as recorded, by the size or mtime of their files."""

    NONE = 0
    OVERLAY = enum.auto()
    ORIGINAL = enum.auto()


@frozen
class OnDisk:
    """The files of a guest. ``doubt``: what to do, and why, if it is uncertain which they are.

    ``parts``: the other files of a half-deleted original, if they still exist. ``dependents``: those of a kept
    original, in words. After a restore, ``original`` is the older original or the guest's own image. ``left``: the
    overlay that restore left behind. ``missing``: words for the guest's own image if it is missing.
    """

    overlay: str | None
    original: str | None
    doubt: str = ""
    template: TemplateIs = TemplateIs.THERE
    written: Written = Written.NONE
    left: str | None = None
    missing: str = ""
    parts: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()


def status_rows(plan: Plan, history: History, on_disk: dict[str, OnDisk]) -> list[StatusRow]:
    """Return a row for each guest, in the plan's order."""
    back = history.given_back(plan.created)
    return [
        _row(guest, history, on_disk.get(guest.name), plan.retire, is_back=guest.name in back)
        for guest in plan.guests
    ]


def _row(guest: GuestPlan, history: History, there: OnDisk | None, retire: Retire, *, is_back: bool) -> StatusRow:
    known = history.states.get(guest.name)
    if isinstance(guest, UntouchedGuest):
        refused = guest.verdict is Verdict.REFUSE
        what = "plan again once this is fixed" if refused else "nothing"
        return StatusRow(guest.name, _VERDICTS[guest.verdict], "", "", f"{what}: {guest.reason}")
    if isinstance(guest, GuestToShare):
        return _row_of_sharing(guest, known, history)
    if known is not None and _is_rolled_back(known):
        known = None
    unstarted = Step.RESTORED.value if is_back else "planned"
    failure = history.failures.get(guest.name, "")
    begin = _PLAN_AGAIN if failure.startswith(STALE_PLAN) else "apply: write the overlay"
    again = _again(guest.name) if is_back else begin
    return StatusRow(
        name=guest.name,
        step=unstarted if known is None else known.step.value,
        since=history.times.get(guest.name, ""),
        failure=failure,
        next=_begin(there, again) if known is None else _next(guest, known, there, retire),
    )


def _row_of_sharing(guest: GuestToShare, known: GuestState | None, history: History) -> StatusRow:
    if known is None:
        step, what = "planned", "apply: share its blocks with the template"
    elif known.step is Step.SHARED:
        back = freed_by_sharing(guest, known)
        step, what = known.step.value, f"nothing: sharing freed {back}, and the guest does not need the template"
    else:
        step, what = known.step.value, "apply: share the rest of its blocks; the last run did not finish"
    since, failure = history.times.get(guest.name, ""), history.failures.get(guest.name, "")
    return StatusRow(guest.name, step, since, failure, _PLAN_AGAIN if failure.startswith(STALE_PLAN) else what)


def _again(guest: str) -> str:
    by_name = f"apply {shell_option('--guest', guest)}"
    return f"nothing; to convert it again: {by_name}, or plan again if its image has changed"


def _begin(there: OnDisk | None, begin: str) -> str:
    """Put a missing image first: the overlay that restore left behind may be all that is left."""
    if there is not None and there.missing:
        return _restored_missing(there, f"; its overlay {there.left} is still there" if there.left else "")
    if there is None or there.left is None:
        return begin
    only = "restore left it behind, and it is needed only to recover what the VM wrote"
    return f"rm {shell_word(there.left)}, or rename it: {only}"


def _restored_missing(there: OnDisk, left: str) -> str:
    return f"bring back the image that restore gave the guest: {there.missing}{left}"


def _is_rolled_back(known: GuestState) -> bool:
    is_begun = known.step is not Step.CHECKED or known.temporary is not None or known.moved or known.published
    return known.goal is Goal.APPLY and not is_begun


def _next(guest: GuestToConvert, known: GuestState, there: OnDisk | None, retire: Retire) -> str:
    if known.step is Step.RESTORED:
        return _older(known, there)
    if known.goal is not Goal.APPLY and known.step is not Step.PURGED:
        return f"{known.goal}: finish the {known.goal} that was started"
    if there is not None and there.doubt:
        return there.doubt
    trouble = _trouble(there) if known.published and there is not None else ""
    return trouble or _by_step(guest, known, there, retire)


def _older(known: GuestState, there: OnDisk | None) -> str:
    if there is not None and there.missing:
        return _restored_missing(there, f"; its older original {there.original} is left" if there.original else "")
    if there is not None and there.original is None:
        return f"nothing: the older original {known.aside} was removed, and purge would only record that"
    if there is not None and Written.ORIGINAL in there.written:
        return f"find out what is in the older original {known.aside}: purge keeps it, because it has changed"
    return f"purge --used: delete the older original {known.aside}"


def _trouble(there: OnDisk) -> str:
    """Look for the worst first."""
    if there.template is TemplateIs.MISSING:
        return _template_lost(there)
    if there.overlay is None:
        return _overlay_missing(there)
    if there.template is TemplateIs.UNKNOWN:
        return "verify: a file of the template cannot be examined, perhaps for lack of permission"
    if there.template is TemplateIs.WRITTEN_TO:
        return "verify: the size or mtime of the template changed, so the overlay may be damaged"
    return ""


def _by_step(guest: GuestToConvert, known: GuestState, there: OnDisk | None, retire: Retire) -> str:
    how = None if guest.is_on_device else retire
    match known.step:
        case Step.VERIFIED | Step.PUBLISHED | Step.RETIRING if known.published:
            return _kept(there, how) if there is None or there.original else _removed(there)
        case Step.RETIRED | Step.PURGED if there is not None and there.original == guest.source.path:
            return _kept(there, how)  # the operator has given the original its name back
        case Step.RETIRED if known.fate is Fate.QUARANTINED and (there is None or there.original):
            return _quarantined(there)
        case Step.RETIRED if known.fate is Fate.QUARANTINED:
            return "nothing: its original was removed from quarantine; or restore: rebuild it from the overlay"
        case Step.RETIRED | Step.PURGED:
            return "nothing; or restore: rebuild the original from the overlay"
        case _:
            return "apply: clean up, then write the overlay"


def _removed(there: OnDisk) -> str:
    if there.parts:
        return f"apply: delete what is left of its original ({few(there.parts)}); or restore"
    return "nothing: its original was removed; or restore: rebuild it from the overlay"


def _kept(there: OnDisk | None, retire: Retire | None) -> str:
    if there is not None and there.dependents and not there.written:
        return f"{_must_stay(there)}; or restore"
    if retire is None and (there is None or not there.written):
        return "nothing: the original is a block device; remove it yourself once you trust the overlay; or restore"
    if there is None or not there.written:
        verb = "apply --retire quarantine" if retire is Retire.KEEP else "apply"
        return f"{verb}: verify again and retire the original; or restore"
    back = f"restore --discard-changes to go back to {there.original}"
    if there.dependents and Written.ORIGINAL not in there.written:
        return f"{_must_stay(there)}; or {back}"
    if Written.ORIGINAL in there.written:
        doing = (
            "verify: its original has changed since the conversion, so only you know whether to keep it or the"
            " overlay"
        )
    else:
        doing = (
            f"remove the original {there.original} if you trust the overlay, which has been written to since the"
            " conversion"
        )
    return f"{doing}; or {back}"


def _must_stay(there: OnDisk) -> str:
    depend = "depends" if len(there.dependents) == 1 else "depend"
    return f"nothing: the original {there.original} must stay, because {few(there.dependents)} {depend} on it"


def _quarantined(there: OnDisk | None) -> str:
    written = Written.NONE if there is None else there.written
    if there is not None and Written.ORIGINAL in written:
        return (
            f"verify: the original in quarantine, {there.original}, has changed since the conversion; or restore"
        )
    if Written.OVERLAY in written:
        return "purge --used: delete the original in quarantine, though the VM has run on its overlay; or restore"
    return "purge: delete the original in quarantine; or restore"


def _template_lost(there: OnDisk) -> str:
    if there.original is None:
        return "its template is missing: bring it back; if it was moved, add --map OLD=NEW"
    return f"its template is missing: bring it back, or restore --discard-changes to go back to {there.original}"


def _overlay_missing(there: OnDisk) -> str:
    if there.original is None:
        return "its overlay is missing, and so is its original: if they were moved, add --map OLD=NEW"
    return f"its overlay is missing: bring it back, or restore --discard-changes to go back to {there.original}"
