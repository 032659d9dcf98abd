"""``batchdiff apply``: write the overlays of a plan, verify them, and retire the originals."""

from __future__ import annotations

import argparse
import os

from batchdiff.applying.apply import ApplyOptions, apply_plan, check_options
from batchdiff.applying.checks.verify_mode import VerifyMode
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.journal.records import Fate, Notes, Step
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.choices import Retire
from batchdiff.cli.confirm import Question, confirm
from batchdiff.cli.console import Console
from batchdiff.cli.format_doubts import warn_of_planned_formats
from batchdiff.cli.journal_notes import notes_of
from batchdiff.cli.run_session import carry_out, exit_code
from batchdiff.files.filenames import shell_word
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import Plan
from batchdiff.report.results_text import results_text

_WHAT = "these originals will be deleted, each once QEMU finds its overlay identical. Their VMs must be shut down:"
_NOT_THERE = {Fate.DELETED, Fate.GONE}
_OTHERWISE = "Use `--retire keep` or `--retire quarantine` to keep the originals."


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan = read_plan(arguments.plan)
    options = ApplyOptions(
        retire=arguments.retire or plan.retire,
        verify=arguments.verify,
        guests=None if arguments.guests is None else tuple(arguments.guests),
    )
    check_options(plan, options)
    notes = notes_of(console, arguments, plan)
    warn_of_planned_formats(console, plan, notes, options.guests)
    if options.retire is Retire.DELETE and not arguments.yes:
        paths = _to_delete(plan, options, notes)
        if paths:
            confirm(console, "apply", Question(_WHAT, paths, _OTHERWISE))
    if options.verify is not VerifyMode.FULL:
        console.say(f"Overlays are verified by batchdiff alone (--verify {options.verify}), not by QEMU.")
    outcomes = carry_out(console, arguments, plan, lambda session: apply_plan(session, options))
    console.result(results_text(outcomes, width=console.width))
    _print_next_steps(console, shell_word(arguments.plan), outcomes)
    return exit_code(outcomes)


def _print_next_steps(console: Console, plan: str, outcomes: list[GuestOutcome]) -> None:
    """Print how the space comes back, as long as originals exist."""
    fates = {outcome.original.fate for outcome in outcomes if outcome.status is not Status.FAILED}
    if Fate.KEPT in fates:
        console.say(
            "The space comes back once the originals are gone. Before their VMs run on the overlays,"
            f" `batchdiff apply {plan} --retire quarantine` (or delete) can retire them. Once a VM has written to"
            " its overlay, delete the original yourself when you trust the overlay."
        )
    if Fate.QUARANTINED in fates:
        console.say(
            "The space comes back once the originals in quarantine are gone. When the VMs run well on their"
            f" overlays: `batchdiff purge {plan} --used`. To go back: `batchdiff restore {plan}`."
        )


def _to_delete(plan: Plan, options: ApplyOptions, notes: Notes) -> list[str]:
    """Return the originals that still exist for an apply to delete."""
    standings = notes.standings
    found = []
    for guest in plan.to_convert:
        chosen = options.guests is None or guest.name in options.guests
        # An original in quarantine is deleted, too.
        standing = standings.get(guest.name)
        done = standing is not None and (standing.step is Step.PURGED or standing.fate in _NOT_THERE)
        if not chosen or done:
            continue
        names = original_names(guest.source.path)
        found += [place for place in (names.own, names.quarantine, names.deleting) if os.path.lexists(place)][:1]
    return found
