"""The common part of apply, restore and purge."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field

from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import Fate, History, Step
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.plan_journal import plan_journal
from batchdiff.applying.session.session import Session
from batchdiff.applying.undo import NOTHING_TO_PURGE, NOTHING_TO_UNDO
from batchdiff.cli.console import Console
from batchdiff.cli.definition_changes import changes_in_definition
from batchdiff.cli.signals import stopping
from batchdiff.definitions.domain_state import images_of_active_domains
from batchdiff.definitions.virsh import Libvirt
from batchdiff.errors import EXIT_DONE, BatchdiffError, GuestError, StopError, UsageError
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import explain
from batchdiff.linux.machine import usable_cpus
from batchdiff.plan.earlier_plans import is_done
from batchdiff.plan.path_map import NOTHING_MOVED, PathMap
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.report.events import guest_event
from batchdiff.units import format_size

_WORST_FIRST = (6, 5, 7, 4, 1)
"""Exit codes of guests."""

_CHANGES_DISKS = {Status.CONVERTED, Status.SHARED, Status.RETIRED, Status.RESTORED, Status.PURGED}

_ALWAYS_FREES = {Status.SHARED, Status.RESTORED, Status.PURGED}
"""Results that can free space whatever became of the original."""

_COMPLETE = _CHANGES_DISKS | {Status.UNCHANGED}
"""Results that count as completed in an interrupted command."""

_REASON_WAITS = {Status.SHARED, Status.UNCHANGED}
"""Results whose reasons can wait for the command's result."""

Work = Callable[[Session], Iterator[GuestOutcome]]


@frozen
class Announcer:
    """The printer of a session's reports. ``unheard``: why reports could not be printed."""

    console: Console
    template: ImageSource
    plan_path: str
    unheard: list[UsageError] = field(default_factory=list)

    def step(self, guest: str, step: Step) -> None:
        """See :class:`batchdiff.applying.session.session.Watch`."""
        try:
            self.console.detail(f"{guest}: {step}")
            self.console.event("step", guest=guest, step=step.value)
        except UsageError as error:
            self.unheard.append(error)

    def notice(self, text: str) -> None:
        """See :class:`batchdiff.applying.session.session.Watch`."""
        try:
            self.console.warn(text)
            self.console.event("notice", message=text)
        except UsageError as error:
            self.unheard.append(error)

    def report_guest(self, guest: GuestPlan, outcome: GuestOutcome) -> None:
        """Report the outcome of a guest."""
        try:
            self.console.event("guest", **guest_event(guest, outcome))
            _say(self.console, guest, outcome, self.template, self.plan_path)
        except UsageError as error:
            self.unheard.append(error)

    def report_without_result(self, outcomes: list[GuestOutcome]) -> None:
        """Report failures and remarks that only the command's result would have shown."""
        if not self.console.is_one_terminal:
            return  # they have been reported
        try:
            for each in outcomes:
                if each.status is Status.FAILED:
                    self.console.warn(f"{each.name}: {each.status}: {each.reason}")
                for remark in each.remarks:
                    self.console.warn(f"{each.name}: {remark}")
        except UsageError as error:
            self.unheard.append(error)


def carry_out(
    console: Console,
    arguments: argparse.Namespace,
    plan: Plan,
    work: Work,
    path_map: PathMap = NOTHING_MOVED,
) -> list[GuestOutcome]:
    """Do the work of a command and return its outcomes, each reported as it comes.

    :raises StopError: the command was interrupted.
    :raises UsageError: the work is done, but not every report could be written.
    :raises BatchdiffError: the work cannot begin, or cannot continue.
    """
    outcomes: list[GuestOutcome] = []
    announcer = Announcer(console, plan.template.source, arguments.plan)
    domains = in_domains(arguments)
    with stopping() as stop, plan_journal(arguments.plan, plan, path_map) as journal, console.metering() as meter:
        plan_path, jobs = os.path.abspath(arguments.plan), arguments.jobs or usable_cpus()
        session = Session(plan, journal, announcer, stop, arguments.unseen, plan_path, jobs, meter, domains)
        try:
            _do(work, session, announcer, outcomes)
        except StopError as error:
            names = ", ".join(outcome.name for outcome in outcomes if outcome.status in _COMPLETE) or "none"
            raise StopError(
                f"interrupted; completed guests: {names}",
                # Work in progress was rolled back, but blocks that were shared stay shared.
                remedy="No disk was left incomplete. Run the same command again to continue.",
            ) from error
    # Lost reports do not stop the work, but the exit code must not claim success.
    if announcer.unheard:
        raise announcer.unheard[0]
    return outcomes


def dry_run(
    console: Console, arguments: argparse.Namespace, plan: Plan, work: Work, history: History
) -> list[GuestOutcome]:
    """Return the outcomes that a command would have, each reported as it comes.

    ``work`` must change nothing.

    :raises StopError: the command was interrupted.
    :raises UsageError: not every report could be written.
    :raises BatchdiffError: the work cannot begin, or cannot continue.
    """
    outcomes: list[GuestOutcome] = []
    announcer = Announcer(console, plan.template.source, arguments.plan)
    domains = in_domains(arguments)
    with stopping() as stop, console.metering() as meter, advising_to_start_over():
        session = Session(
            plan, MemoryJournal(history), announcer, stop, arguments.unseen, meter=meter, in_domains=domains
        )
        _do(work, session, announcer, outcomes)
    if announcer.unheard:
        raise announcer.unheard[0]
    return outcomes


def _do(work: Work, session: Session, announcer: Announcer, outcomes: list[GuestOutcome]) -> None:
    guests = {guest.name: guest for guest in session.plan.guests}
    try:
        with explained():
            for outcome in work(session):
                outcomes.append(outcome)
                session.meter.settle(outcome.name)
                announcer.report_guest(guests[outcome.name], outcome)
    except BatchdiffError:
        announcer.report_without_result(outcomes)
        raise


@contextmanager
def advising_to_start_over() -> Iterator[None]:
    """Advise the operator to start over if the block, which must change nothing, is interrupted.

    :raises StopError: the block was interrupted.
    """
    try:
        yield
    except StopError as error:
        remedy = "Run the same command again to start over."
        raise StopError("interrupted; nothing was changed", remedy=remedy) from error


@contextmanager
def explained() -> Iterator[None]:
    """Explain a system error.

    :raises GuestError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        fault = explain(error)
        raise GuestError("cannot continue", why=fault.why, remedy=fault.remedy) from error


def in_domains(arguments: argparse.Namespace) -> dict[str, str]:
    """Return, by resolved path, how an active or saved domain uses each image.

    Empty if neither ``--connect`` nor ``--define`` is given: then the command must not depend on libvirt.

    :raises DefinitionError, ProgramError: libvirt's records cannot be used.
    """
    if arguments.connect is None and not getattr(arguments, "define", False):
        return {}
    return images_of_active_domains(Libvirt(arguments.connect or ""))


def report_space(console: Console, space: FreeSpace, outcomes: list[GuestOutcome]) -> None:
    """Report changes in free space, if any image has changed."""
    changed = [outcome for outcome in outcomes if outcome.status in _CHANGES_DISKS]
    if not changed:
        return
    deleted = any(each.status in _ALWAYS_FREES or each.original.fate is Fate.DELETED for each in changed)
    purged = all(each.status is Status.PURGED for each in changed)
    gains = [each.gained_bytes for each in changed]
    known = [each for each in gains if each is not None]
    expected = sum(known) if len(known) == len(gains) else None
    for folder, grown in space.grown(deleted=deleted, expected=expected).items():
        console.event("space", folder=folder, grown_bytes=grown)
        # Until something is deleted, the overlays only take space, as the plan predicted.
        if deleted:
            console.say(_df(folder, grown, purged=purged))


def _df(folder: str, grown: int, *, purged: bool) -> str:
    where = f"free space on the filesystem of {folder} than before this command"
    if purged and grown < 0:
        why = "other programs wrote meanwhile, or the filesystem has yet to free what was deleted"
        return f"df: {format_size(-grown)} less {where}: {why}."
    included = "changes that other programs made meanwhile are included"
    if not grown:
        return f"df: as much free space on the filesystem of {folder} as before this command; {included}."
    how = "more" if grown > 0 else "less"
    return f"df: {format_size(abs(grown))} {how} {where}; {included}."


def _say(console: Console, guest: GuestPlan, outcome: GuestOutcome, template: ImageSource, plan_path: str) -> None:
    # The result on the same terminal will show all of this; only a failure cannot wait.
    if console.is_one_terminal:
        if outcome.status is Status.FAILED:
            console.warn(f"{outcome.name}: {outcome.status}")
        return
    if outcome.status in {Status.FAILED, Status.REFUSED}:
        console.warn(f"{outcome.name}: {outcome.status}: {outcome.reason}")
        return
    # Hundreds of guests may have the same reason; the result has one line for all of them.
    is_of_many = is_done(outcome.reason) or outcome.reason in {NOTHING_TO_UNDO, NOTHING_TO_PURGE}
    say = console.detail if outcome.status is Status.SKIPPED and is_of_many else console.say
    has_reason = outcome.reason and outcome.status not in _REASON_WAITS
    say(f"{outcome.name}: {outcome.status}{': ' + outcome.reason if has_reason else ''}")
    for remark in outcome.remarks:
        console.warn(f"{outcome.name}: {remark}")
    for line in changes_in_definition(guest, outcome, template, plan_path):
        console.say(f"  {line}")


def exit_code(outcomes: list[GuestOutcome]) -> int:
    """Return the exit code of a command with these outcomes."""
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=EXIT_DONE))
