"""``batchdiff status``: where each guest of a plan stands, from the journal."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from batchdiff.applying.journal import read_notes
from batchdiff.applying.notes import mapped_notes
from batchdiff.applying.standings import standings_of
from batchdiff.cli.console import Console
from batchdiff.cli.moving import moved
from batchdiff.errors import EXIT_DONE
from batchdiff.model.plan_file import read_for_report
from batchdiff.report.standing import standing_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    plan, path_map = moved(console, read_for_report(arguments.plan), arguments)
    found = standings_of(plan, mapped_notes(read_notes(arguments.plan, plan.checksum), path_map))
    for each in found:
        console.event("status", **asdict(each))
    console.result(standing_text(found, width=console.width))
    return EXIT_DONE
