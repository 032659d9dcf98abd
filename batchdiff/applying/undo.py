"""Restore or purge the guests of a plan, through the same pipeline as apply."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from batchdiff.applying.apply import chosen
from batchdiff.applying.at_once import at_once
from batchdiff.applying.checks.verify import require_judges
from batchdiff.applying.guest_results import kept_for, undone, with_way_back
from batchdiff.applying.guests.commands import commands
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.guests.whole_originals import originals_first
from batchdiff.applying.journal.records import Fate, Goal, Standing, Step
from batchdiff.applying.pipeline import Arrival, Way, arrivals
from batchdiff.applying.restore_without_template import (
    DAMAGED,
    WITHOUT_TEMPLATE,
    restore_without_template,
    split_by_reading,
)
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Session, template_held
from batchdiff.applying.swap.purge_tasks import PurgeOptions, purge_task
from batchdiff.applying.swap.task import Task
from batchdiff.applying.swap.undo_tasks import RestoreOptions, restore_task
from batchdiff.applying.template.check import accept_template, doubt, require_content
from batchdiff.applying.template.sidecar import discard_unfinished
from batchdiff.errors import BatchdiffError, DifferenceError, StopError, UsageError
from batchdiff.image.format_marks import looks_like
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat
from batchdiff.plan.plan import GuestToConvert, Plan

Chosen = list[tuple[GuestToConvert, Standing]]
"""Guests that a verb can do something for, each with its standing."""


def restorable(plan: Plan, standings: dict[str, Standing], names: tuple[str, ...] | None) -> Chosen:
    """Return the guests that restore can do something for, of those names or of all.

    :raises UsageError: no guest has such a name, or there is nothing to restore for it.
    """

    def is_started(standing: Standing) -> bool:
        # An apply that failed before it had verified an overlay has left a temporary file at most.
        left = standing.temporary is not None and os.path.lexists(standing.temporary)
        left = left or standing.overlay is not None  # verified, and perhaps published, which may be unrecorded
        in_place = standing.published or standing.moved or left
        # A purge after a restore deletes an older original; the guest itself is restored.
        restored = standing.step is Step.RESTORED or (standing.goal is Goal.PURGE and not standing.published)
        return in_place and not restored

    return _chosen(plan, standings, names, is_started)


def purgeable(plan: Plan, standings: dict[str, Standing], names: tuple[str, ...] | None) -> Chosen:
    """Return the guests whose originals are in quarantine, of those names or of all.

    :raises UsageError: no guest has such a name, or its original is not in quarantine.
    """

    def in_quarantine(standing: Standing) -> bool:
        unfinished = standing.goal is Goal.PURGE and standing.step not in {Step.PURGED, Step.RESTORED}
        ended = standing.step in {Step.RETIRED, Step.RESTORED}
        return unfinished or (ended and standing.fate is Fate.QUARANTINED)

    return _chosen(plan, standings, names, in_quarantine)


def restore(session: Session, options: RestoreOptions) -> Iterator[GuestOutcome]:
    """Bring originals back, or rebuild them, delete their overlays, and yield the outcomes.

    :raises UsageError: there is no such guest, or nothing to restore.
    :raises PlanError: the template's content changed.
    :raises ProgramError: qemu-img is missing.
    :raises StopError: a stop was requested.
    """
    found = restorable(session.plan, session.journal.notes.standings, options.guests)
    lost = why_template_is_lost(session) if found else None
    if lost is not None:
        require_decision(session, found, options, lost)
        yield from restore_without_template(session, found, WITHOUT_TEMPLATE)
        return
    if options.discard_changes:
        # Overlays that cannot be read stay where they are; all others take the usual way.
        found, damaged = split_by_reading(found, session.plan)
        yield from restore_without_template(session, damaged, DAMAGED)
    for guest, arrival in _arrivals(session, found, partial(restore_task, options=options)):
        done = arrival.conversion
        if arrival.error is None and done is not None and Action.WRITE in done.done:
            done.notes += _starts_like_another_format(guest)
        notes = session.journal.notes
        yield undone(guest, with_way_back(arrival, guest, notes), Status.RESTORED, notes)


def purge(session: Session, options: PurgeOptions) -> Iterator[GuestOutcome]:
    """Delete quarantined originals whose overlays QEMU finds identical, and yield the outcomes.

    :raises BatchdiffError: as for :func:`restore`.
    """
    found = purgeable(session.plan, session.journal.notes.standings, options.guests)
    for guest, arrival in _arrivals(session, found, partial(purge_task, options=options)):
        if isinstance(arrival.error, DifferenceError):
            yield kept_for(arrival.guest, arrival.error)
        else:
            notes = session.journal.notes
            yield undone(guest, with_way_back(arrival, guest, notes), Status.PURGED, notes)


def _chosen(
    plan: Plan,
    standings: dict[str, Standing],
    names: tuple[str, ...] | None,
    wanted: Callable[[Standing], bool],
) -> Chosen:
    guests = [
        (guest, standings.get(guest.name)) for guest in chosen(plan, names) if isinstance(guest, GuestToConvert)
    ]
    found = [(guest, standing) for guest, standing in guests if standing is not None and wanted(standing)]
    if names is not None and len(found) < len(set(names)):
        left = set(names) - {guest.name for guest, _ in found}
        raise UsageError(
            f"there is nothing to do for {', '.join(sorted(left))}",
            remedy=f"{commands('status', [])} shows where each guest stands.",
        )
    return found


def _arrivals(
    session: Session, found: Chosen, make: Callable[..., Task]
) -> Iterator[tuple[GuestToConvert, Arrival]]:
    plan = session.plan
    discard_unfinished(plan)
    if not found:
        return
    require_judges()
    with template_held(session) as run:
        accept_template(run)
        ways = [Way(guest.name, partial(make, guest, plan.template, run, standing)) for guest, standing in found]
        jobs = at_once(session.jobs, [guest for guest, _ in found], plan.template.source)
        for arrival, (guest, _) in zip(arrivals(ways, run, at_once=jobs), found, strict=True):
            yield guest, arrival


def why_template_is_lost(session: Session) -> BatchdiffError | None:
    """Return why the template cannot be read as it was planned; None if it can."""
    try:
        with open_image(session.plan.template.source) as template:
            inspect(template)
            reason = doubt(template, session.plan, session.journal.notes)
            if reason:
                require_content(template, session.plan, session.journal.notes, reason, check=session.stop.check)
    except StopError:
        raise
    except BatchdiffError as error:
        return error
    return None


def require_decision(session: Session, found: Chosen, options: RestoreOptions, lost: BatchdiffError) -> None:
    """Require `--discard-changes` if the template is lost: without it no overlay can be read.

    :raises BatchdiffError: the option is missing.
    """
    if options.discard_changes:
        return
    raise originals_first(lost, [guest for guest, _ in found], session.journal.notes)


def _starts_like_another_format(guest: GuestToConvert) -> list[str]:
    """Return a warning if a raw disk starts like another format, which is dangerous if formats are guessed."""
    found = looks_like(guest.source.path)
    if guest.source.format is not ImageFormat.RAW or found in {None, ImageFormat.RAW}:
        return []
    return [f"{guest.source.path} is raw, but starts like {found}: its VM's definition must say raw"]
