"""Apply a plan: let guests share blocks with the template, then convert others."""

from __future__ import annotations

import os
from collections.abc import Iterator

from batchdiff.applying.at_once import at_once
from batchdiff.applying.checks.space import check_space
from batchdiff.applying.checks.verify import require_judges
from batchdiff.applying.guest_results import apply_outcome, skipped_outcome, with_way_back
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.given_back import why_not_again
from batchdiff.applying.journal.records import Fate, History, Step
from batchdiff.applying.pipeline import run_swaps
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Run, Session, template_held
from batchdiff.applying.share_guests import expect_sharing, is_shared, share_guests, unchanged_outcome
from batchdiff.applying.swap.apply_task import ApplyOptions, ApplyTask
from batchdiff.applying.swap.new_files import unfinished_files
from batchdiff.applying.template.check import accept_template, sync
from batchdiff.applying.template.publication import Publication
from batchdiff.applying.template.sidecar import discard_unfinished
from batchdiff.applying.template.write_protection import record_interrupted_protection
from batchdiff.applying.workload import expect_apply
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import PlanError, UsageError
from batchdiff.files.identity import identity_of
from batchdiff.image.image import Image
from batchdiff.image.storage.template_storage import TemplateRisk, template_risk
from batchdiff.linux.block_stack import Underlying, all_underlying
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Plan, UntouchedGuest

_NOT_THERE = {Fate.DELETED, Fate.GONE}


def apply_plan(session: Session, options: ApplyOptions) -> Iterator[GuestOutcome]:
    """Apply the plan to the chosen guests, and yield their outcomes.

    :raises UsageError: the options contradict each other or the plan.
    :raises PlanError: the template may not have the planned content, or its sidecar cannot be used.
    :raises ImageError: the template cannot be used.
    :raises ProgramError: qemu-img is needed and missing.
    :raises GuestError: a filesystem may not have enough space.
    :raises StopError: a stop was requested.
    """
    plan, history = session.plan, session.journal.history
    guests = check_options(plan, options)
    chosen = [guest for guest in guests if isinstance(guest, GuestToConvert)]
    to_share = [guest for guest in guests if isinstance(guest, GuestToShare)]
    if to_share and not chosen and all(is_shared(guest.name, history) for guest in to_share):
        yield from map(_outcome_without_work, guests)  # none needs the template, which may be gone by now
        return
    left_alone = _left_alone(chosen, plan, options, history)
    to_convert = [guest for guest in chosen if guest.name not in left_alone]
    with template_held(session) as run:
        expect_apply(session, to_convert, options)
        expect_sharing(session.meter, to_share)
        template = run.template
        # First: a ctime that an interrupted apply changed must not make the plan stale.
        record_interrupted_protection(template, plan.template.fingerprints, session.journal)
        accept_template(run)
        sync(template)
        # Sharing frees space that the overlays may need.
        yield from share_guests(run, to_share)
        # An error from here to run_swaps ends the command before any overlay is written.
        pending = [guest for guest in to_convert if not _is_published(guest, session)]
        jobs = _jobs(run, to_convert, pending, options.retire)
        discard_unfinished(plan)
        publication = Publication(plan, run)
        _make_up(publication, to_convert, session)
        under = all_underlying(tuple(layer.path for layer in template.layers))

        def task_of(guest: GuestToConvert) -> ApplyTask:
            publication.require_made_up(guest)
            _check_not_the_template(guest, template, under, guest.retired(options.retire))
            return ApplyTask(guest, plan.template, run, options, publication)

        results = run_swaps(to_convert, task_of, run, at_once=jobs)
        for guest in guests:
            if guest.name in left_alone:
                yield GuestOutcome(guest.name, Status.SKIPPED, left_alone[guest.name])
            elif isinstance(guest, GuestToConvert):
                yield apply_outcome(guest, with_way_back(next(results), guest, history), history)
            elif isinstance(guest, UntouchedGuest):
                yield skipped_outcome(guest)


def _outcome_without_work(guest: GuestPlan) -> GuestOutcome:
    if isinstance(guest, GuestToShare):
        return unchanged_outcome(guest)
    if isinstance(guest, UntouchedGuest):
        return skipped_outcome(guest)
    raise AssertionError(f"{guest.name} is to be converted")


def check_options(plan: Plan, options: ApplyOptions) -> list[GuestPlan]:
    """Check the options, and return the chosen guests.

    :raises UsageError: the options contradict each other or the plan.
    :raises ProgramError: qemu-img is needed and missing.
    """
    guests = choose_guests(plan, options.guests)
    if options.retire is Retire.DELETE and options.verify is not VerifyMode.FULL:
        raise UsageError(
            "originals are deleted only after full verification",
            remedy="Leave `--verify` out, or use `--retire keep` or `--retire quarantine`.",
        )
    if options.verify is VerifyMode.FULL and any(isinstance(guest, GuestToConvert) for guest in guests):
        require_judges("Or use `--verify native`, which does not allow originals to be deleted.")
    return guests


def originals_to_delete(plan: Plan, options: ApplyOptions, history: History) -> list[tuple[str, int]]:
    """Return the paths of originals that `--retire delete` would delete, with their bytes on disk when planned.

    :raises UsageError: as for :func:`choose_guests`.
    """
    found = []
    back = _given_back(plan, options, history)
    for guest in choose_guests(plan, options.guests):
        state = history.states.get(guest.name)
        done = state is not None and (state.step is Step.PURGED or state.fate in _NOT_THERE)
        if isinstance(guest, GuestToConvert) and not (done or guest.is_on_device or guest.name in back):
            names = original_names(guest.source.path)
            size = guest.diff.savings.allocated_bytes
            aside = names.quarantine, names.deleting
            # With `overlay: {path: same}`, a published overlay has the original's own name.
            is_replaced = guest.overlay_path == names.own and state is not None and state.published
            places = aside if is_replaced else (names.own, *aside)
            there = [path for path in places if os.path.lexists(path)]
            found += [(path, size) for path in there[:1]]
    return found


def _left_alone(
    guests: list[GuestToConvert], plan: Plan, options: ApplyOptions, history: History
) -> dict[str, str]:
    back = _given_back(plan, options, history)
    return why_not_again([guest for guest in guests if guest.name in back], plan.template)


def _given_back(plan: Plan, options: ApplyOptions, history: History) -> frozenset[str]:
    return history.given_back(plan.created) if options.guests is None else frozenset()


def _jobs(run: Run, guests: list[GuestToConvert], pending: list[GuestToConvert], retire: Retire) -> int:
    plan = run.session.plan
    jobs = at_once(run.session.jobs, guests, plan.template.source)
    protected = run.template if plan.protect_template else None
    states = [(guest, run.session.journal.state(guest.name)) for guest in pending]
    left = {guest.name: unfinished_files(state, guest.options.data_file) for guest, state in states if state}
    room = check_space(pending, retire, protected, jobs=jobs, unfinished=left)
    if room.scarce_in:
        run.session.watch.notice(
            f"guests in progress at the same time: {room.jobs} instead of {jobs}, because the filesystem of"
            f" {room.scarce_in} has no space for more overlays beside their originals"
        )
    return room.jobs


def _make_up(publication: Publication, guests: list[GuestToConvert], session: Session) -> None:
    """Complete publications, in case an apply died right after publishing an overlay."""
    for guest in guests:
        if _is_published(guest, session) and os.path.lexists(guest.overlay_path):
            publication.make_up(guest)


def _is_published(guest: GuestToConvert, session: Session) -> bool:
    state = session.journal.state(guest.name)
    return state is not None and state.published


def choose_guests(plan: Plan, names: tuple[str, ...] | None) -> list[GuestPlan]:
    """Return the guests with these names, in the plan's order; all if ``names`` is None.

    :raises UsageError: the plan has no guest with one of the names.
    """
    if names is None:
        return list(plan.guests)
    known = {guest.name for guest in plan.guests}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"the plan has no guest called {' or '.join(map(repr, unknown))}",
            remedy=f"Its {'only guest is' if len(known) == 1 else 'guests are:'} {', '.join(sorted(known))}.",
        )
    return [guest for guest in plan.guests if guest.name in names]


def _check_not_the_template(guest: GuestToConvert, template: Image, under: Underlying, retire: Retire) -> None:
    """Refuse a guest whose conversion would put the template at risk: a plan may be wrong."""
    risk = template_risk(under, identity_of(guest.source.path), retire)
    if risk is TemplateRisk.STORED_IN_GUEST:
        raise PlanError(f"guest {guest.name} is the template, or stores it", remedy="Plan again.")
    if risk is TemplateRisk.UNTRACED:
        raise UsageError(
            f"the original of {guest.name} must not be deleted",
            why=f"the template {template.path} is stored on a block device whose own storage cannot be traced, so"
            " the template may be stored in this original",
            remedy="Use `--retire quarantine` or `--retire keep`.",
        )
