"""``batchdiff restore``: brings originals back from quarantine, or rebuilds them from their overlays."""

from __future__ import annotations

import argparse

from batchdiff.applying.undoing import restore
from batchdiff.cli.console import Console
from batchdiff.cli.earlier import require_done_here
from batchdiff.cli.work import carried_out, exit_code
from batchdiff.model.plan_file import read_plan
from batchdiff.report.outcome import undone_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    plan = read_plan(arguments.plan)
    names = None if arguments.guests is None else tuple(arguments.guests)
    require_done_here(plan, names, "restore")
    outcomes = carried_out(console, arguments, plan, lambda session: restore(session, names))
    console.result(undone_text(outcomes, width=console.width))
    return exit_code(outcomes)
