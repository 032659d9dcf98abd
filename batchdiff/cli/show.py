"""``batchdiff show``: the savings report of a saved plan."""

from __future__ import annotations

import argparse
import json

from batchdiff.applying.journal import noted_template
from batchdiff.cli.console import Console
from batchdiff.errors import EXIT_DONE, UsageError
from batchdiff.image.fingerprint import Fingerprint, fingerprint_at
from batchdiff.model.plan import Plan, Verdict
from batchdiff.model.plan_file import read_plan
from batchdiff.report.json_form import plan_json
from batchdiff.report.text import plan_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    plan = read_plan(arguments.plan)
    stale = stale_notices(plan, noted_template(arguments.plan))
    as_json = plan_json(plan, stale=stale)
    text = as_json if arguments.format == "json" else plan_text(plan, stale=stale, width=console.width)
    if arguments.output is None:
        console.result(text)
    else:
        _write(arguments.output, text)
    console.event("report", report=json.loads(as_json))
    return EXIT_DONE


def stale_notices(plan: Plan, protected: Fingerprint | None) -> list[str]:
    """What has changed since a plan was made, a sentence for each image.

    ``protected``: the template's fingerprint after an apply took its write bits, where one did.
    """
    images = [
        plan.template,
        *(g.image for g in plan.guests if g.image is not None and g.verdict is Verdict.CONVERT),
    ]
    notices = []
    for image in images:
        for path, planned in zip(image.paths, image.fingerprints, strict=True):
            now = fingerprint_at(path)
            if now is not None and now == protected:
                continue
            changes = "it is gone" if now is None else planned.changes(now)
            if changes:
                notices.append(f"{path}: {changes}")
    return notices


def _write(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except OSError as error:
        raise UsageError(f"cannot write the report to {path}", why=error.strerror or str(error)) from error
