"""The common part of apply, restore and purge: work on a plan, with outcomes reported as they come."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import Fate, History, Step
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.plan_journal import plan_journal
from batchdiff.applying.session.session import Session
from batchdiff.applying.undo import NOTHING_TO_PURGE, NOTHING_TO_UNDO
from batchdiff.choices import Verdict
from batchdiff.cli.console import Console
from batchdiff.cli.signals import stopping
from batchdiff.definitions.domain_state import images_of_active_domains
from batchdiff.definitions.virsh import Libvirt
from batchdiff.errors import EXIT_DONE, GuestError, StopError, UsageError
from batchdiff.files.filenames import shell_line
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.call_failures import explain
from batchdiff.linux.machine import usable_cpus
from batchdiff.managers.proxmox import is_of_proxmox
from batchdiff.plan.earlier_plans import is_done
from batchdiff.plan.path_map import NOTHING_MOVED, PathMap
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.qemu.image_options import decryption, dotted
from batchdiff.report.events import guest_event
from batchdiff.units import format_size

_WORST_FIRST = (6, 5, 7, 4, 1)
"""The exit code of a command whose guests failed in different ways is the first of these: the most urgent."""

_CHANGES_DISKS = {Status.CONVERTED, Status.SHARED, Status.RETIRED, Status.RESTORED, Status.PURGED}

_ALWAYS_FREES = {Status.SHARED, Status.RESTORED, Status.PURGED}
"""Results for which a file was deleted or let go of blocks, whatever became of the original."""

_MOST_CHANGES = 3
"""Guests whose definitions are listed on a terminal, where a table of all guests stands above."""

PROXMOX_FOLDER = ("--proxmox", "/etc/pve/qemu-server")
"""The option with the folder in which a host of Proxmox VE has the configurations of its VMs."""

Work = Callable[[Session], Iterator[GuestOutcome]]


@dataclass(frozen=True, slots=True)
class Announcer:
    """A reporter of events. If a report cannot be written, the work continues; ``unheard`` keeps the errors."""

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
        """Report that a guest is finished."""
        try:
            self.console.event("guest", **guest_event(guest, outcome))
            _say(self.console, guest, outcome, self.template, self.plan_path)
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

    ``path_map`` maps the paths in the journal and the sidecar to the present ones.

    :raises StopError: it was interrupted; the message lists the completed guests.
    :raises UsageError: everything was done, but not all could be reported.
    """
    outcomes: list[GuestOutcome] = []
    announcer = Announcer(console, plan.template.source, arguments.plan)
    guests = {guest.name: guest for guest in plan.guests}
    domains = in_domains(arguments)
    with stopping() as stop, plan_journal(arguments.plan, plan, path_map) as journal, console.metering() as meter:
        plan_path, jobs = os.path.abspath(arguments.plan), arguments.jobs or usable_cpus()
        session = Session(plan, journal, announcer, stop, arguments.unseen, plan_path, jobs, meter, domains)
        try:
            for outcome in work(session):
                outcomes.append(outcome)
                meter.settle(outcome.name)
                announcer.report_guest(guests[outcome.name], outcome)
        except StopError as error:
            names = ", ".join(outcome.name for outcome in outcomes) or "none"
            raise StopError(
                f"interrupted; completed guests: {names}",
                remedy="The work in progress was rolled back. Run the same command again to continue.",
            ) from error
        except OSError as error:
            fault = explain(error)
            raise GuestError("cannot continue", why=fault.why, remedy=fault.remedy) from error
    # Output that could not be written does not stop the work, but the exit code must not claim success.
    if announcer.unheard:
        raise announcer.unheard[0]
    return outcomes


def dry_run(
    console: Console, arguments: argparse.Namespace, plan: Plan, work: Work, history: History
) -> list[GuestOutcome]:
    """Return the outcomes that a command would have, each reported as it comes; nothing is changed.

    :raises StopError: it was interrupted.
    """
    outcomes: list[GuestOutcome] = []
    announcer = Announcer(console, plan.template.source, arguments.plan)
    guests = {guest.name: guest for guest in plan.guests}
    domains = in_domains(arguments)
    with stopping() as stop, console.metering() as meter:
        session = Session(
            plan, MemoryJournal(history), announcer, stop, arguments.unseen, meter=meter, in_domains=domains
        )
        for outcome in work(session):
            outcomes.append(outcome)
            meter.settle(outcome.name)
            announcer.report_guest(guests[outcome.name], outcome)
    if announcer.unheard:
        raise announcer.unheard[0]
    return outcomes


def in_domains(arguments: argparse.Namespace) -> dict[str, str]:
    """Return who uses each image in libvirt's eyes, by its resolved path.

    libvirt is asked only if an option refers to it; otherwise a command neither needs it nor waits for it.

    :raises ProgramError: libvirt cannot be asked.
    """
    if arguments.connect is None and not getattr(arguments, "define", False):
        return {}
    return images_of_active_domains(Libvirt(arguments.connect or ""))


def report_space(console: Console, space: FreeSpace, outcomes: list[GuestOutcome]) -> None:
    """Report how free space, as in df, has changed since the command began, if the command changed any image."""
    changed = [outcome for outcome in outcomes if outcome.status in _CHANGES_DISKS]
    if not changed:
        return
    deleted = any(each.status in _ALWAYS_FREES or each.original.fate is Fate.DELETED for each in changed)
    purged = all(each.status is Status.PURGED for each in changed)
    for folder, grown in space.grown(deleted=deleted).items():
        console.event("space", folder=folder, grown_bytes=grown)
        # Until something is deleted, the overlays only take space, as the plan said they would.
        if deleted:
            console.say(_df(folder, grown, purged=purged))


def _df(folder: str, grown: int, *, purged: bool) -> str:
    """Return a sentence on the free space of a filesystem; ``purged``: this command wrote nothing to it."""
    where = f"free space on the filesystem of {folder} than before this command"
    if purged and grown < 0:
        return f"df: {format_size(-grown)} less {where}: meanwhile other programs wrote more than it deleted."
    how = "more" if grown >= 0 else "less"
    included = "changes that other programs made meanwhile are included"
    return f"df: {format_size(abs(grown))} {how} {where}; {included}."


def _say(console: Console, guest: GuestPlan, outcome: GuestOutcome, template: ImageSource, plan_path: str) -> None:
    # On one terminal the result below has all of this. Only a failure cannot wait until then.
    if console.is_one_terminal:
        if outcome.status is Status.FAILED:
            console.warn(f"{outcome.name}: {outcome.status}")
        return
    if outcome.status in {Status.FAILED, Status.REFUSED}:
        console.warn(f"{outcome.name}: {outcome.status}: {outcome.reason}")
        return
    # Hundreds of guests may be done already, in every run; the result has one line for all of them.
    is_of_many = is_done(outcome.reason) or outcome.reason in {NOTHING_TO_UNDO, NOTHING_TO_PURGE}
    say = console.detail if outcome.status is Status.SKIPPED and is_of_many else console.say
    say(f"{outcome.name}: {outcome.status}{': ' + outcome.reason if outcome.reason else ''}")
    for remark in outcome.remarks:
        console.warn(f"{outcome.name}: {remark}")
    for line in _changes(guest, outcome, template, plan_path):
        console.say(f"  {line}")


def report_changes(console: Console, path: str, plan: Plan, outcomes: list[GuestOutcome]) -> None:
    """Print, below the results on a terminal, what must change in definitions; elsewhere each guest's line had it.

    ``path``: the plan's.
    """
    if not console.is_one_terminal:
        return
    guests = {guest.name: guest for guest in plan.guests}
    changes = [
        (each.name, list(_changes(guests[each.name], each, plan.template.source, path))) for each in outcomes
    ]
    found = [(name, lines) for name, lines in changes if lines]
    for name, lines in found if console.verbosity > 0 else found[:_MOST_CHANGES]:
        for line in lines:
            console.say(f"{name}: {line}")
    left = len(found) - _MOST_CHANGES
    if left > 0 and console.verbosity <= 0:
        console.say(
            f"{left} more {'definition' if left == 1 else 'definitions'} must change in the same way:"
            f" `{definitions_command(path, plan.guests)}` shows how"
        )


def definitions_command(
    path: str, guests: Iterable[GuestPlan], *, moves: Iterable[str] = (), options: Iterable[str] = ()
) -> str:
    """Return the command that shows what must change in the definitions of these guests' VMs.

    ``path``: the plan's. ``moves``: ``--map`` and its values. ``options``: those for libvirt, which does not know
    the VMs of Proxmox VE.
    """
    manager = PROXMOX_FOLDER if is_on_proxmox(guests) else options
    return shell_line(["batchdiff", "definitions", path, *manager, *moves])


def is_on_proxmox(guests: Iterable[GuestPlan]) -> bool:
    """Return True if an overlay of these guests has the place and name of a disk of Proxmox VE."""
    return any(is_of_proxmox(guest.overlay_path) for guest in guests)


def _changes(guest: GuestPlan, outcome: GuestOutcome, template: ImageSource, plan_path: str) -> Iterator[str]:
    """Yield what to change in the definition of a guest's VM, if its overlay exists."""
    has_overlay = outcome.status in {Status.CONVERTED, Status.UNCHANGED, Status.RETIRED}
    if has_overlay and guest.verdict is not Verdict.SHARE:
        yield from _definition(guest, plan_path)
        yield from _secrets(guest, template)


def _definition(guest: GuestPlan, plan_path: str) -> Iterator[str]:
    """Yield what to change in the definition of a guest's VM, which names a symbolic link if the manifest does."""
    file, kind = guest.source.path, guest.source.format.value
    named = guest.alias or file
    before = f"{guest.alias} (a link to {file}, {kind})" if guest.alias else f"{file} ({kind})"
    form = guest.options.format
    if is_on_proxmox([guest]):
        # A linked clone is named after its base, even if it has taken the guest's own path.
        yield f"change the VM's configuration: `{definitions_command(plan_path, [guest])}` prints the command"
    elif guest.overlay_path != file:
        yield f"change the VM's definition: {before} -> {guest.overlay_path} ({form})"
    elif kind == form:
        yield f"the VM's definition stays as it is: {named} ({form})"
    else:
        yield f"change the VM's definition: the format of {named}, {kind} -> {form}"
    if guest.options.data_file is not None:
        yield f"the overlay keeps its data in {guest.options.data_file}, which the VM opens as well"
    if guest.alias and os.path.islink(guest.alias) and not os.path.exists(guest.alias):
        yield f"the link {guest.alias} points to nothing now; remove it once no definition names it"


def _secrets(guest: GuestPlan, template: ImageSource) -> Iterator[str]:
    """Yield what to change about secrets in the definition of a guest's VM."""
    chosen = guest.options.encryption
    if chosen is not None:
        yield (
            f"the overlay is encrypted: give the VM the secret in {chosen.secret_file}"
            " (QEMU: encrypt.key-secret=ID; libvirt: <encryption> in the disk's <source>)"
        )
    elif guest.source.secret_file is not None:
        yield "the overlay is not encrypted: remove the secret of the original from the VM's definition"
    overlay = ImageSource(guest.overlay_path, ImageFormat.QCOW2, (template, *template.backing))
    ids = {each.secret_file: "SECRET" for each in overlay.backing if each.secret_file is not None}
    options = [each for each in dotted(decryption(overlay, ids)) if each.endswith("=SECRET")]
    if options:
        yield (
            f"the template is encrypted: give the VM its secret, too (QEMU: {', '.join(options)}; libvirt:"
            " <encryption> in the disk's <backingStore>)"
        )


def exit_code(outcomes: list[GuestOutcome]) -> int:
    """Return the exit code of a command with these outcomes."""
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=EXIT_DONE))
