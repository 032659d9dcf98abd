"""``batchdiff status``: show the state of each guest of a plan, from the journal and the files."""

from __future__ import annotations

import argparse

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.errors import EXIT_DONE
from batchdiff.plan.file import read_for_report
from batchdiff.report.events import status_event
from batchdiff.report.status_text import status_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan, path_map = with_moved_paths(console, read_for_report(arguments.plan), arguments)
    history = history_of(console, arguments, plan, path_map)
    found = status_rows(plan, history, on_disk(plan, history))
    for each in found:
        console.event("status", **status_event(each))
    console.result(status_text(found, width=console.width))
    return EXIT_DONE
