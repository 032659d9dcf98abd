"""``batchdiff purge``: deletes quarantined originals, each after its overlay was compared with it once more."""

from __future__ import annotations

import argparse
import os

from batchdiff.applying.places import original_names
from batchdiff.applying.undoing import purge
from batchdiff.cli.asking import confirm
from batchdiff.cli.console import Console
from batchdiff.cli.earlier import require_done_here
from batchdiff.cli.work import carried_out, exit_code
from batchdiff.model.plan import Plan
from batchdiff.model.plan_file import read_plan
from batchdiff.report.outcome import undone_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    plan = read_plan(arguments.plan)
    names = None if arguments.guests is None else tuple(arguments.guests)
    require_done_here(plan, names, "purge")
    paths = _in_quarantine(plan, names)
    if paths and not arguments.yes:
        confirm(console, "purge", paths)
    outcomes = carried_out(console, arguments, plan, lambda session: purge(session, names))
    console.result(undone_text(outcomes, width=console.width))
    return exit_code(outcomes)


def _in_quarantine(plan: Plan, names: tuple[str, ...] | None) -> list[str]:
    paths = (original_names(g.source.path).quarantine for g in plan.guests if names is None or g.name in names)
    return [path for path in paths if os.path.lexists(path)]
