"""Restore or purge the guests of a plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from batchdiff.applying.apply import choose_guests
from batchdiff.applying.at_once import at_once
from batchdiff.applying.checks.verify import require_judges
from batchdiff.applying.guest_results import kept_outcome, undo_outcome, with_way_back
from batchdiff.applying.guests.commands import commands
from batchdiff.applying.guests.guest_files import find_original
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.guests.whole_originals import originals_first
from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.pipeline import SwapResult, run_swaps
from batchdiff.applying.restore_without_template import (
    DAMAGED,
    WITHOUT_TEMPLATE,
    GuestWithState,
    restore_without_template,
    split_by_reading,
)
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Run, Session, template_held
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.purge_task import PurgeOptions, purge_task
from batchdiff.applying.swap.restore_task import restore_task
from batchdiff.applying.swap.task import SwapTask
from batchdiff.applying.template.check import accept_template, begin_with_template, doubt, require_content
from batchdiff.applying.template.sidecar import discard_unfinished
from batchdiff.applying.workload import expect_comparisons, expect_restore
from batchdiff.errors import BatchdiffError, DifferenceError, GuestError, StopError
from batchdiff.image.format_marks import looks_like
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat
from batchdiff.plan.plan import GuestToConvert, GuestToShare, Plan

NOTHING_TO_UNDO = (
    "there is nothing to undo: with `strategy: share`, a guest remains a standalone image, and it shares a block"
    " with the template only until one of the two images is written to at that place"
)

NOTHING_TO_PURGE = "there is no original to delete: with `strategy: share`, the guest itself is kept"


def restorable(plan: Plan, states: dict[str, GuestState], names: tuple[str, ...] | None) -> list[GuestWithState]:
    """Return the guests that have something to restore. ``names``: None for all.

    :raises UsageError: the plan has no guest with one of the names.
    """

    def is_started(state: GuestState) -> bool:
        # An apply that failed before it verified an overlay may have left unfinished files.
        left = state.temporary is not None and os.path.lexists(state.temporary)
        left = left or state.overlay is not None  # verified, and perhaps published without a record
        in_place = state.published or state.moved or left
        # A purge after a restore deletes an older original; the guest itself has been restored already.
        restored = state.step is Step.RESTORED or (state.goal is Goal.PURGE and not state.published)
        return in_place and not restored

    return _chosen(plan, states, names, is_started)


def purgeable(plan: Plan, states: dict[str, GuestState], names: tuple[str, ...] | None) -> list[GuestWithState]:
    """Return the guests whose originals are in quarantine, or whose purge was interrupted.

    ``names``: None for all.

    :raises UsageError: the plan has no guest with one of the names.
    """

    def in_quarantine(state: GuestState) -> bool:
        unfinished = state.goal is Goal.PURGE and state.step not in {Step.PURGED, Step.RESTORED}
        ended = state.step in {Step.RETIRED, Step.RESTORED}
        return unfinished or (ended and state.fate is Fate.QUARANTINED)

    found = _chosen(plan, states, names, in_quarantine)
    return [each for each in found if not _has_its_name_back(*each)]


def _has_its_name_back(guest: GuestToConvert, state: GuestState) -> bool:
    if state.step is not Step.RETIRED:
        return False
    with contextlib.suppress(GuestError):  # either of two files could be the original
        original = find_original(guest, state)
        return original is not None and original.path == guest.source.path
    return False


def restore(session: Session, options: RestoreOptions) -> Iterator[GuestOutcome]:
    """Bring back originals or rebuild images, delete the overlays, and yield the outcomes.

    With ``options.discard_changes``, overlays that cannot be read are kept. If the template is lost at the start,
    all overlays are kept, and no error is raised.

    :raises UsageError: the plan has no guest with one of the names.
    :raises PlanError: the template's content may have changed.
    :raises ImageError: the template cannot be used.
    :raises ProgramError: qemu-img cannot be used.
    :raises StopError: a stop was requested.
    """
    found = restorable(session.plan, session.journal.history.states, options.guests)
    yield from nothing_to_do(session.plan, found, options.guests, "restore")
    expect_restore(session, found, discarding=options.discard_changes)
    lost = why_template_is_lost(session) if found else None
    if lost is not None:
        require_decision(session, found, options, lost)
        yield from restore_without_template(session, found, WITHOUT_TEMPLATE)
        return
    if options.discard_changes:
        found, damaged = split_by_reading(found, session.plan)
        yield from restore_without_template(session, damaged, DAMAGED)

    def task_of(run: Run, guest: GuestToConvert, state: GuestState) -> SwapTask:
        return restore_task(guest, session.plan.template, run, state, options)

    for guest, result in _results(session, found, task_of):
        swap = result.swap
        if result.error is None and swap is not None and Action.WRITE in swap.done:
            swap.remarks += _looks_like_another_format(guest)
        history = session.journal.history
        yield undo_outcome(guest, with_way_back(result, guest, history), Status.RESTORED, history)


def purge(session: Session, options: PurgeOptions) -> Iterator[GuestOutcome]:
    """Delete quarantined originals that QEMU finds identical to the VMs' disks, and yield the outcomes.

    With ``options.used``, delete the others, too, if they have not changed since they were planned and the VMs'
    disks are sound.

    :raises BatchdiffError: as for :func:`restore` without ``discard_changes``.
    """
    found = purgeable(session.plan, session.journal.history.states, options.guests)
    yield from nothing_to_do(session.plan, found, options.guests, "purge")
    expect_comparisons(session.meter, [guest for guest, _ in found])

    def task_of(run: Run, guest: GuestToConvert, state: GuestState) -> SwapTask:
        return purge_task(guest, session.plan.template, run, state, options)

    states = {guest.name: state for guest, state in found}
    for guest, result in _results(session, found, task_of):
        if isinstance(result.error, DifferenceError):
            yield kept_outcome(guest, result.error, states[guest.name])
        else:
            history = session.journal.history
            yield undo_outcome(guest, with_way_back(result, guest, history), Status.PURGED, history)


def _chosen(
    plan: Plan,
    states: dict[str, GuestState],
    names: tuple[str, ...] | None,
    wanted: Callable[[GuestState], bool],
) -> list[GuestWithState]:
    to_convert = [guest for guest in choose_guests(plan, names) if isinstance(guest, GuestToConvert)]
    guests = [(guest, states.get(guest.name)) for guest in to_convert]
    return [(guest, state) for guest, state in guests if state is not None and wanted(state)]


def nothing_to_do(
    plan: Plan, found: list[GuestWithState], names: tuple[str, ...] | None, verb: str
) -> Iterator[GuestOutcome]:
    """Yield a skipped outcome for each named guest that has nothing to restore or purge.

    If no guest is named and none was found, yield one for each guest to share.

    :raises UsageError: the plan has no guest with one of the names.
    """
    having = {guest.name for guest, _ in found}
    if names is None and not found:
        names = tuple(guest.name for guest in plan.to_share)
    for guest in choose_guests(plan, names) if names is not None else ():
        if isinstance(guest, GuestToShare):
            why = NOTHING_TO_UNDO if verb == "restore" else NOTHING_TO_PURGE
            yield GuestOutcome(guest.name, Status.SKIPPED, why)
        elif guest.name not in having:
            reason = f"there is nothing to {verb}; {commands('status', [])} shows the guest's state"
            yield GuestOutcome(guest.name, Status.SKIPPED, reason)


def _results(
    session: Session, found: list[GuestWithState], task_of: Callable[[Run, GuestToConvert, GuestState], SwapTask]
) -> Iterator[tuple[GuestToConvert, SwapResult]]:
    plan = session.plan
    discard_unfinished(plan)
    if not found:
        return
    require_judges()
    with template_held(session) as run:
        accept_template(run)
        guests, states = [guest for guest, _ in found], {guest.name: state for guest, state in found}
        jobs = at_once(session.jobs, guests, plan.template.source)
        results = run_swaps(guests, lambda guest: task_of(run, guest, states[guest.name]), run, at_once=jobs)
        yield from zip(guests, results, strict=True)


def why_template_is_lost(session: Session) -> BatchdiffError | None:
    """Return why the template cannot be read as planned; None if it can.

    :raises StopError: a stop was requested.
    """
    try:
        with open_image(session.plan.template.source) as template:
            inspect(template)
            reason = doubt(template, session.plan, session.journal.history)
            if reason:
                # If the template proves to be as planned, it is read again once it is held against writers.
                report = begin_with_template(session.meter, template, times=2)
                plan, history = session.plan, session.journal.history
                require_content(template, plan, history, reason, check=session.stop.check, report=report)
    except StopError:
        raise
    except BatchdiffError as error:
        return error
    return None


def require_decision(
    session: Session, found: list[GuestWithState], options: RestoreOptions, lost: BatchdiffError
) -> None:
    """Require `--discard-changes`.

    :raises BatchdiffError: ``lost``, with any originals to go back to, if the option is missing.
    """
    if options.discard_changes:
        return
    raise originals_first(lost, [guest for guest, _ in found], session.plan, session.journal.history)


def _looks_like_another_format(guest: GuestToConvert) -> list[str]:
    found = looks_like(guest.source.path)
    if guest.source.format is not ImageFormat.RAW or found in {None, ImageFormat.RAW}:
        return []
    return [
        f"{guest.source.path} is raw, but looks like a {found} image: its VM's definition must declare it as raw"
    ]
