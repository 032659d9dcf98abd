"""``batchdiff apply``: writes the overlays of a plan, verifies them, and retires the originals."""

from __future__ import annotations

import argparse
import contextlib
import sys
from contextlib import closing
from dataclasses import asdict, dataclass

from batchdiff.applying.executor import ApplyOptions, apply_plan
from batchdiff.applying.journal import Journal, Step
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.cli.console import Console
from batchdiff.errors import EXIT_DONE, UsageError
from batchdiff.model.manifest import Retire
from batchdiff.model.outcome import GuestOutcome, Status
from batchdiff.model.plan import Plan, Verdict
from batchdiff.model.plan_file import checksum_of, read_plan
from batchdiff.model.plan_json import to_dict
from batchdiff.report.outcome import outcome_text

_WORST_FIRST = (6, 5, 7, 4, 1)
"""Which exit code an apply has where guests failed in different ways: what needs a person most."""


@dataclass(frozen=True, slots=True)
class _Announcer:
    """Says each step of each guest."""

    console: Console

    def step(self, guest: str, step: Step) -> None:
        """See :class:`batchdiff.applying.conversion.Watch`."""
        # Where nobody can be told any more, the work goes on all the same.
        with contextlib.suppress(UsageError):
            self.console.detail(f"{guest}: {step}")
            self.console.event("step", guest=guest, step=step.value)


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    plan = read_plan(arguments.plan)
    options = ApplyOptions(
        retire=arguments.retire or plan.retire,
        verify=arguments.verify,
        guests=None if arguments.guests is None else tuple(arguments.guests),
    )
    if options.retire is Retire.DELETE and not arguments.yes:
        _confirm(console, plan, options)
    if options.verify is not VerifyMode.FULL:
        console.say(f"Overlays are verified by batchdiff alone (--verify {options.verify}), not by QEMU.")
    outcomes: list[GuestOutcome] = []
    with closing(Journal(arguments.plan, checksum_of(to_dict(plan)))) as journal:
        for outcome in apply_plan(plan, journal, options, _Announcer(console)):
            outcomes.append(outcome)
            console.event("guest", **asdict(outcome))
            _say(console, plan, outcome)
    console.result(outcome_text(outcomes, width=console.width))
    if any(outcome.original == "kept" for outcome in outcomes):
        console.say(
            "The space comes back once the originals are gone. Before you start VMs on the overlays, run:"
            f" batchdiff apply {arguments.plan} --retire quarantine (or delete)"
        )
    return _exit_code(outcomes)


def _say(console: Console, plan: Plan, outcome: GuestOutcome) -> None:
    if outcome.status in {Status.FAILED, Status.REFUSED}:
        console.warn(f"{outcome.name}: {outcome.status}: {outcome.reason}")
        return
    console.say(f"{outcome.name}: {outcome.status}{': ' + outcome.reason if outcome.reason else ''}")
    for note in outcome.notes:
        console.warn(f"{outcome.name}: {note}")
    if outcome.status is Status.CONVERTED:
        guest = next(guest for guest in plan.guests if guest.name == outcome.name)
        before, after = f"{guest.source.path} ({guest.source.format})", f"{guest.overlay_path} (qcow2)"
        console.say(f"  in the VM's definition: {before} -> {after}")


def _confirm(console: Console, plan: Plan, options: ApplyOptions) -> None:
    """Asks before originals are deleted.

    :raises UsageError: the answer was no, or there is nobody to ask.
    """
    chosen = [g for g in plan.guests if g.verdict is Verdict.CONVERT and g.name in (options.guests or (g.name,))]
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "`--retire delete` asks before it deletes, and there is no terminal to ask on",
            remedy="Add `--yes` if the originals shall be deleted once their overlays are verified.",
        )
    console.warn(
        "their VMs must be shut down. These originals will be deleted, each once its overlay is verified:"
    )
    for guest in chosen:
        console.warn(f"  {guest.source.path}")
    if console.ask("Type yes to go on: ").lower() != "yes":
        raise UsageError("nothing was done", remedy="Without `--retire delete` the originals are kept.")


def _exit_code(outcomes: list[GuestOutcome]) -> int:
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=EXIT_DONE))
