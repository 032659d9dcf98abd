"""``batchdiff status``: show the state of each guest of a plan, and what to do next."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.kept_originals import with_dependents
from batchdiff.applying.guests.status import OnDisk, status_rows
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.logs.metrics import status_metrics
from batchdiff.cli.logs.textfile import check_textfile, write_textfile
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.errors import EXIT_DONE
from batchdiff.plan.file import read_for_report
from batchdiff.plan.plan import Plan
from batchdiff.report.events import status_event
from batchdiff.report.status_text import status_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.textfile is not None:
        check_textfile(arguments.textfile)
    plan, path_map = with_moved_paths(console, read_for_report(arguments.plan), arguments)
    history = history_of(console, arguments, plan, path_map)
    files = with_dependents(plan, on_disk(plan, history))
    found = status_rows(plan, history, files)
    for each in found:
        console.event("status", **status_event(each))
    console.result(status_text(found, width=console.width))
    if arguments.textfile is not None:
        metrics = status_metrics(plan, found, files, _overlay_bytes(plan, files))
        write_textfile(arguments.textfile, arguments.plan, "status", metrics)
    return EXIT_DONE


def _overlay_bytes(plan: Plan, files: Mapping[str, OnDisk]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for guest in plan.to_convert:
        found = files.get(guest.name)
        if found is None or found.overlay is None:
            continue
        for path in filter(None, (found.overlay, guest.options.data_file)):
            with contextlib.suppress(OSError):  # the file may be gone
                sizes[guest.name] = sizes.get(guest.name, 0) + os.stat(path).st_blocks * 512
    return sizes
