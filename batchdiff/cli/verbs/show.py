"""``batchdiff show``: print the savings report of a saved plan."""

from __future__ import annotations

import argparse

from batchdiff.applying.journal.file import read_notes
from batchdiff.applying.journal.records import Notes
from batchdiff.cli.console import Console
from batchdiff.cli.format_doubts import warn_of_planned_formats
from batchdiff.errors import EXIT_DONE, UsageError
from batchdiff.files.filenames import shell_word
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.linux.call_failures import reason
from batchdiff.linux.machine import usable_cpus
from batchdiff.plan.file import read_for_report
from batchdiff.plan.known_states import is_known_state
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import read_sidecar, sidecar_path
from batchdiff.report.charset import written_in
from batchdiff.report.facts import PlanFacts
from batchdiff.report.form import WIDTH
from batchdiff.report.forms import PLAN_FORMS
from batchdiff.report.plan_json import plan_report


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan = read_for_report(arguments.plan)
    notes = read_notes(arguments.plan, plan.checksum)
    facts = PlanFacts(plan, stale_notices(plan, notes), usable_cpus())
    form = PLAN_FORMS[arguments.format]
    if arguments.output is not None:
        with written_in("utf-8"):  # a file does not depend on the terminal of the command
            _write(arguments.output, form(facts, WIDTH))
    elif not console.json:
        console.result(form(facts, console.width))
    warn_of_planned_formats(console, plan, notes)
    if notes.published:
        done = ", ".join(guest.name for guest in plan.guests if guest.name in notes.published)
        where = f"batchdiff status {shell_word(arguments.plan)}"
        console.say(f"Converted by an earlier apply: {done}. `{where}` shows the state of each guest.")
    if console.json:  # in a large plan it sums up millions of extents
        console.event("report", report=plan_report(facts))
    return EXIT_DONE


def stale_notices(plan: Plan, notes: Notes) -> list[str]:
    """Return a sentence for each image that has changed since planning; converted guests don't matter."""
    pending = [guest for guest in plan.to_convert if guest.name not in notes.published]
    template = [] if _is_template_unchanged(plan) else [plan.template]
    images = [*template, *(guest.image for guest in pending)]
    notices = []
    for image in images:
        for path, planned in zip(image.paths, image.fingerprints, strict=True):
            now = fingerprint_at(path)
            if now in notes.changed:
                continue
            changes = "it is gone" if now is None else planned.changes(now)
            if changes:
                notices.append(f"{path}: {changes}")
    return notices


def _is_template_unchanged(plan: Plan) -> bool:
    """Return True if only batchdiff changed the template: apply, of any plan, removes its write permission."""
    now = tuple(fingerprint_at(path) or NO_FILE for path in plan.template.paths)
    path = plan.template.source.path
    return is_known_state(plan.template.fingerprints, now, read_sidecar(sidecar_path(path, path)))


def _write(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except OSError as error:
        why = "it exists, and is not replaced" if isinstance(error, FileExistsError) else reason(error)
        raise UsageError(f"cannot write the report to {path}", why=why, remedy="Name another file.") from error
