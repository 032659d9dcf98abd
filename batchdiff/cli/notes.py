"""The notes of a plan's journal for verbs that only look or ask; recovered if the journal was lost."""

from __future__ import annotations

import argparse

from batchdiff.applying.journal import read_notes
from batchdiff.applying.notes import Notes, mapped_notes
from batchdiff.cli.console import Console
from batchdiff.model.path_map import NOTHING_MOVED, PathMap
from batchdiff.model.plan import Plan
from batchdiff.units import few

_RECOVERED = (
    "warning: the journal {path} is missing or empty; if you have it elsewhere, put it back first. What apply"
    " did was recovered from the template's sidecar and from the files themselves, for {guests}"
)


def notes_of(
    console: Console, arguments: argparse.Namespace, plan: Plan, path_map: PathMap = NOTHING_MOVED
) -> Notes:
    """Return what the journal of a plan says. If there is nothing in it, what the sidecar and the files prove."""
    notes = mapped_notes(read_notes(arguments.plan, plan.checksum), path_map)
    if notes.times:
        return notes
    # Imported here: it reads the headers of images, and status must not wait for what that loads.
    from batchdiff.applying.recovery import recovered  # noqa: PLC0415

    notes.standings.update(recovered(plan, path_map))
    if notes.standings:
        console.warn(_RECOVERED.format(path=f"{arguments.plan}.journal", guests=few(notes.standings)))
    return notes
