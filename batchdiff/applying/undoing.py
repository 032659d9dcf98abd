"""Restores or purges the guests of a plan, by the same ways as apply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from batchdiff.applying.executor import chosen
from batchdiff.applying.notes import Goal, Standing, Step
from batchdiff.applying.outcomes import undone
from batchdiff.applying.pipeline import Way, arrivals
from batchdiff.applying.restoring import purge_task, restore_task
from batchdiff.applying.run import Run, Session, template_held
from batchdiff.applying.sidecar import discard_unfinished, forget_overlay
from batchdiff.applying.task import Task
from batchdiff.applying.template import check_content, known_digest
from batchdiff.applying.verification import require_judges
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import UsageError
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect
from batchdiff.model.outcome import GuestOutcome, Status
from batchdiff.model.plan import GuestPlan, Plan, PlannedImage

_MakeTask = Callable[[GuestPlan, PlannedImage, Run, Standing], Task]


def restore(session: Session, names: tuple[str, ...] | None) -> Iterator[GuestOutcome]:
    """Brings originals back, or rebuilds them, and removes their overlays; outcomes guest by guest.

    :raises UsageError: there is no such guest, or nothing to restore.
    :raises PlanError: the template's content changed.
    :raises ProgramError: qemu-img is missing.
    :raises StopError: somebody asked to stop.
    """

    def in_place(standing: Standing) -> bool:
        return standing.published or standing.temporary is not None or standing.moved

    yield from _undone(session, _standings(session, names, in_place), restore_task, Goal.RESTORE)


def purge(session: Session, names: tuple[str, ...] | None) -> Iterator[GuestOutcome]:
    """Deletes quarantined originals whose overlays still are what they were; outcomes guest by guest.

    :raises BatchdiffError: as :func:`restore`.
    """

    def in_quarantine(standing: Standing) -> bool:
        begun = standing.goal is Goal.PURGE and standing.step is not Step.PURGED
        return begun or (standing.step is Step.RETIRED and standing.original.startswith("quarantined"))

    yield from _undone(session, _standings(session, names, in_quarantine), purge_task, Goal.PURGE)


def _standings(
    session: Session, names: tuple[str, ...] | None, wanted: Callable[[Standing], bool]
) -> list[tuple[GuestPlan, Standing]]:
    guests = [(guest, session.journal.standing(guest.name)) for guest in chosen(session.plan, names)]
    found = [(guest, standing) for guest, standing in guests if standing is not None and wanted(standing)]
    if names is not None and len(found) < len(names):
        left = set(names) - {guest.name for guest, _ in found}
        raise UsageError(
            f"there is nothing to do for {', '.join(sorted(left))}",
            remedy="`batchdiff status` shows where each guest stands.",
        )
    return found


def _undone(
    session: Session, found: list[tuple[GuestPlan, Standing]], make: _MakeTask, goal: Goal
) -> Iterator[GuestOutcome]:
    discard_unfinished(session.plan.template.source.path)
    if not found:
        return
    require_judges(VerifyMode.FULL)
    plan = session.plan
    with template_held(session) as run:
        template = run.template
        check_content(run, plan)
        inspect(template)
        ways = [Way(guest.name, partial(make, guest, plan.template, run, standing)) for guest, standing in found]
        status = Status.RESTORED if goal is Goal.RESTORE else Status.PURGED
        for arrival, (guest, _) in zip(arrivals(ways, run), found, strict=True):
            if goal is Goal.RESTORE and arrival.error is None and arrival.conversion is not None:
                arrival.conversion.notes += _forgotten(template, plan, guest)
            yield undone(arrival, status)


def _forgotten(template: Image, plan: Plan, guest: GuestPlan) -> list[str]:
    try:
        forget_overlay(template, known_digest(plan), guest.overlay_path)
    except OSError as error:
        return [f"the sidecar of {template.path} still names the overlay ({error.strerror or error})"]
    return []
