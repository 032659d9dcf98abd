"""``batchdiff purge``: delete originals in quarantine, each after another comparison with its overlay."""

from __future__ import annotations

import argparse

from batchdiff.applying.dry_run import dry_run_purge
from batchdiff.applying.guests.converted_elsewhere import require_done_here
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.applying.undo import purge, purgeable
from batchdiff.cli.confirm import Question, confirm
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.cli.run_session import carry_out, dry_run, exit_code
from batchdiff.plan.file import read_plan
from batchdiff.report.results_text import undone_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan, path_map = with_moved_paths(console, read_plan(arguments.plan), arguments)
    options = PurgeOptions(None if arguments.guests is None else tuple(arguments.guests), arguments.used)
    require_done_here(plan, options.guests, "purge")
    history = history_of(console, arguments, plan, path_map)
    if arguments.dry_run:
        outcomes = dry_run(console, arguments, plan, lambda session: dry_run_purge(session, options), history)
    else:
        found = purgeable(plan, history.states, options.guests)
        if found and not arguments.yes:
            lines = [original_names(guest.source.path).quarantine for guest, _ in found]
            confirm(console, "purge", _question(lines, used=options.used))
        outcomes = carry_out(console, arguments, plan, lambda session: purge(session, options), path_map)
    if not outcomes:
        console.say("Nothing to purge: no original of this plan is known to be in quarantine.")
    console.result(undone_text(outcomes, width=console.width))
    return exit_code(outcomes)


def _question(lines: list[str], *, used: bool) -> Question:
    if used:
        what = (
            "these originals will be deleted, including those whose VMs have run on their overlays since."
            " Afterwards the state from before the conversion cannot be restored:"
        )
    else:
        what = "these originals will be deleted, each only if QEMU finds its overlay identical:"
    return Question(what, lines, "The originals stay in quarantine.")
