"""``batchdiff status``: show the state of each guest of a plan, from the journal and the files."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import OnDisk, status_rows
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.logs.metrics import status_metrics
from batchdiff.cli.logs.textfile import check_textfile, write_textfile
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.errors import EXIT_DONE
from batchdiff.plan.file import read_for_report
from batchdiff.report.events import status_event
from batchdiff.report.status_text import status_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.textfile is not None:
        check_textfile(arguments.textfile)
    plan, path_map = with_moved_paths(console, read_for_report(arguments.plan), arguments)
    history = history_of(console, arguments, plan, path_map)
    files = on_disk(plan, history)
    found = status_rows(plan, history, files)
    for each in found:
        console.event("status", **status_event(each))
    console.result(status_text(found, width=console.width))
    if arguments.textfile is not None:
        metrics = status_metrics(plan, found, files, _overlay_bytes(files))
        write_textfile(arguments.textfile, arguments.plan, "status", metrics)
    return EXIT_DONE


def _overlay_bytes(files: Mapping[str, OnDisk]) -> dict[str, int]:
    """Return the disk space that the existing overlays take, by guest."""
    sizes = {}
    for name, found in files.items():
        if found.overlay is not None:
            with contextlib.suppress(OSError):  # gone since
                sizes[name] = os.stat(found.overlay).st_blocks * 512
    return sizes
