"""Try a restore or purge without changing anything, for `--dry-run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.checks.space import check_space_for_image
from batchdiff.applying.checks.verify import check_used, require_judges
from batchdiff.applying.guest_results import kept_outcome, undo_failure, with_way_back
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import GuestState
from batchdiff.applying.pipeline import EXPECTED, failed
from batchdiff.applying.restore_without_template import (
    DAMAGED,
    WITHOUT_TEMPLATE,
    GuestWithState,
    split_by_reading,
    try_without_template,
)
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Run, Session, template_held
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.new_files import require_name
from batchdiff.applying.swap.observe import outgoing_at
from batchdiff.applying.swap.outgoing import OutgoingFile
from batchdiff.applying.swap.purge_task import PurgeOptions, purge_task
from batchdiff.applying.swap.restore_task import RestoreTask, restore_task
from batchdiff.applying.swap.task import SwapTask
from batchdiff.applying.template.check import accept_template
from batchdiff.applying.undo import nothing_to_do, purgeable, require_decision, restorable, why_template_is_lost
from batchdiff.applying.workload import expect_comparisons, expect_dry_restore
from batchdiff.errors import DifferenceError, StopError
from batchdiff.plan.plan import GuestToConvert
from batchdiff.qemu.secrets import secrets_of


def dry_run_restore(session: Session, options: RestoreOptions) -> Iterator[GuestOutcome]:
    """Yield the outcomes to expect from restore.

    :raises BatchdiffError: as for :func:`batchdiff.applying.undo.restore`.
    """
    found = restorable(session.plan, session.journal.history.states, options.guests)
    yield from nothing_to_do(session.plan, found, options.guests, "restore")
    expect_dry_restore(session, found, discarding=options.discard_changes)
    # Without the template, nothing is compared, and only originals can be restored.
    lost = why_template_is_lost(session) if found else None
    if lost is not None:
        require_decision(session, found, options, lost)
        yield from try_without_template(found, WITHOUT_TEMPLATE)
        return

    # An overlay that will be discarded need not be readable.
    if options.discard_changes:
        found, damaged = split_by_reading(found, session.plan)
        yield from try_without_template(damaged, DAMAGED)

    def restored(guest: GuestToConvert, task: SwapTask) -> GuestOutcome:
        how = _how_restored(guest, task, discarding=options.discard_changes)
        return GuestOutcome(guest.name, Status.WOULD_RESTORE, how)

    yield from _dry_run(
        session,
        found,
        lambda run, guest, state: restore_task(guest, session.plan.template, run, state, options),
        restored,
    )


def _how_restored(guest: GuestToConvert, task: SwapTask, *, discarding: bool) -> str:
    path, then = guest.source.path, ", and the overlay would be deleted"
    if task.incoming.present is None:
        how = f"{path} would be rebuilt from the overlay"
    elif isinstance(task, RestoreTask) and task.is_rebuilt:
        how = f"it would keep {path}, which an interrupted restore has rebuilt"
    else:
        how = "it would go back to its original"
        then = "; what the VM wrote to the overlay would be discarded" if discarding else then
    if outgoing_at(task) is OutgoingAt.GONE:
        then = ""
    older = "" if task.older is None else f"; the older original would stay in quarantine ({task.older})"
    return f"{how}{then}{older}"


def dry_run_purge(session: Session, options: PurgeOptions) -> Iterator[GuestOutcome]:
    """Yield the outcomes to expect from purge.

    :raises BatchdiffError: as for :func:`batchdiff.applying.undo.purge`.
    """
    found = purgeable(session.plan, session.journal.history.states, options.guests)
    yield from nothing_to_do(session.plan, found, options.guests, "purge")
    expect_comparisons(session.meter, [guest for guest, _ in found])

    def purged(guest: GuestToConvert, task: SwapTask) -> GuestOutcome:
        path = task.outgoing.names.own
        is_gone = outgoing_at(task) is OutgoingAt.GONE
        how = (
            f"{path} is gone already, so the purge would only finish the rest of its work"
            if is_gone
            else f"{path} would be deleted"
        )
        return GuestOutcome(guest.name, Status.WOULD_PURGE, how)

    yield from _dry_run(
        session,
        found,
        lambda run, guest, state: purge_task(guest, session.plan.template, run, state, options),
        purged,
    )


_Report = Callable[[GuestToConvert, SwapTask], GuestOutcome]


def _dry_run(
    session: Session,
    found: list[GuestWithState],
    make: Callable[[Run, GuestToConvert, GuestState], SwapTask],
    report: _Report,
) -> Iterator[GuestOutcome]:
    if not found:
        return
    require_judges()
    with template_held(session) as run:
        accept_template(run)
        for guest, state in found:
            session.stop.check()
            try:
                yield report(guest, _tried(make(run, guest, state), run))
            except StopError:
                raise
            except DifferenceError as error:
                yield kept_outcome(guest, error, state)
            except EXPECTED as error:
                result, history = failed(guest.name, error), session.journal.history
                yield undo_failure(guest, with_way_back(result, guest, history), history.under_way(guest.name))


def _tried(task: SwapTask, run: Run) -> SwapTask:
    """Try a task; return the one that a real run would carry out: ``task``, or the one for images that differ."""
    outgoing, ready = OutgoingFile(task, run), task.incoming.ready
    try:
        if ready is not None or task.incoming.present is None:
            require_name(task, None)
        if ready is not None:
            require_no_dependents(run.dependents, ready)  # the file would be renamed
        _try(task, outgoing)
    except DifferenceError:
        other = task.if_different()
        if other is None:
            raise
    else:
        return task
    finally:
        task.incoming.close()
        outgoing.close()
    return _tried(other, run)


def _try(task: SwapTask, outgoing: OutgoingFile) -> None:
    if outgoing.where is OutgoingAt.GONE:
        return
    image = outgoing.image(moved=False)
    outgoing.require_alone()
    outgoing.require_no_dependents()
    there = task.incoming.present
    if there is None:
        source = task.incoming.source
        check_used(image.source, outgoing.must_end)
        secrets_of([source])  # without its secret, an image cannot be encrypted again
        check_space_for_image(image, os.path.dirname(source.path), task.guest, source)
    elif task.needs_comparison:
        task.verify(image, there, outgoing.must_end)
