"""``batchdiff show``: print the savings report of a plan, or write it to a file."""

from __future__ import annotations

import argparse
import os

from batchdiff.applying.guests.changed_images import changed_images
from batchdiff.applying.guests.conversions import came_back_by_sharing, conversions, older_originals
from batchdiff.applying.journal.file import read_history
from batchdiff.cli.console import Console
from batchdiff.cli.format_doubts import warn_of_planned_formats
from batchdiff.errors import EXIT_DONE, UsageError
from batchdiff.linux.call_failures import ALREADY_EXISTS, reason
from batchdiff.linux.machine import usable_cpus
from batchdiff.linux.permissions import is_read_only
from batchdiff.plan.file import read_for_report
from batchdiff.report.charset import written_in
from batchdiff.report.facts import PlanFacts
from batchdiff.report.form import Form
from batchdiff.report.order import chosen, in_order
from batchdiff.report.plan.forms import PLAN_FORMS
from batchdiff.report.plan.json_form import plan_report


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan = read_for_report(arguments.plan)
    history = read_history(arguments.plan, plan.checksum)
    older = None if arguments.against is None else read_for_report(arguments.against)
    selection = chosen(plan.guests, arguments.only)
    if arguments.sort is not None:
        selection = in_order(selection, arguments.sort)
    facts = PlanFacts(
        plan,
        changed_images(plan, history),
        usable_cpus(),
        _path_for_commands(arguments),
        selection,
        older,
        conversions(plan, history),
        is_read_only(plan.template.source.path),
        {} if older is None else conversions(older, read_history(arguments.against, older.checksum)),
        given_back=history.given_back(plan.created),
        older_originals=older_originals(plan, history),
        shared=came_back_by_sharing(plan, history),
    )
    form = PLAN_FORMS[arguments.format]
    if arguments.output is not None:
        with written_in("utf-8"):  # a file's encoding does not depend on the terminal
            _write(arguments.output, form(facts, None))
    elif not console.json:
        console.result(form(facts, console.width))
    warn_of_planned_formats(console, plan, history)
    # Made only if it is printed: the JSON report of a large plan sums up millions of extents.
    if console.json:
        console.event("report", report=plan_report(facts))
    return EXIT_DONE


def _path_for_commands(arguments: argparse.Namespace) -> str:
    """Return the plan's path, absolute if the report's commands may be copied to a shell in another folder."""
    plan: str = arguments.plan
    stays_here = arguments.output is None and arguments.format is Form.TEXT
    return plan if stays_here else os.path.abspath(plan)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except OSError as error:
        why = ALREADY_EXISTS if isinstance(error, FileExistsError) else reason(error)
        raise UsageError(f"cannot write the report to {path}", why=why, remedy="Name another file.") from error
