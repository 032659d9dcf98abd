"""The notes of a plan's journal, recovered if it was lost, for verbs that only read or ask."""

from __future__ import annotations

import argparse

from batchdiff.applying.guests.unrecorded import unrecorded
from batchdiff.applying.journal.file import read_notes
from batchdiff.applying.journal.records import Notes, mapped_notes
from batchdiff.cli.console import Console
from batchdiff.plan.path_map import NOTHING_MOVED, PathMap
from batchdiff.plan.plan import Plan
from batchdiff.units import few

_RECOVERED = (
    "warning: the journal {path} {lacks}; if you have a complete copy, put it back first. What"
    " apply did was recovered from the template's sidecar and from the files themselves, for {guests}"
)


def notes_of(
    console: Console, arguments: argparse.Namespace, plan: Plan, path_map: PathMap = NOTHING_MOVED
) -> Notes:
    """Return the notes of a plan's journal; those that it lacks are recovered from sidecar and files."""
    notes = mapped_notes(read_notes(arguments.plan, plan.checksum), path_map)
    found = unrecorded(plan, notes, path_map)
    if found:
        lacks = "lacks its last lines" if notes.times else "is missing or empty"
        console.warn(_RECOVERED.format(path=f"{arguments.plan}.journal", lacks=lacks, guests=few(found)))
    notes.standings.update(found)
    return notes
