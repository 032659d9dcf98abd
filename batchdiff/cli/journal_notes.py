"""The notes of a plan's journal, recovered if it was lost, for verbs that only read or ask."""

from __future__ import annotations

import argparse
import os

from batchdiff.applying.journal.file import read_notes
from batchdiff.applying.journal.records import Notes, Standing, mapped_notes
from batchdiff.cli.console import Console
from batchdiff.files import own_files
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
    found = _recovered(plan, notes, path_map) if _may_lack(plan, notes) else {}
    if found:
        lacks = "lacks its last lines" if notes.times else "is missing or empty"
        console.warn(_RECOVERED.format(path=f"{arguments.plan}.journal", lacks=lacks, guests=few(found)))
    notes.standings.update(found)
    return notes


def _may_lack(plan: Plan, notes: Notes) -> bool:
    """Return True if there is a file that apply may have made or renamed, and that the journal does not mention.

    The overlay may be missing, and only the original in quarantine left.
    """
    published = set(notes.published)
    return any(
        os.path.lexists(path)
        for guest in plan.guests
        if guest.name not in published
        for path in (
            guest.overlay_path,
            guest.source.path + own_files.QUARANTINE,
            guest.source.path + own_files.DELETING,
        )
    )


def _recovered(plan: Plan, notes: Notes, path_map: PathMap) -> dict[str, Standing]:
    # Imported here: it reads image headers, and `status` does not need the modules for that otherwise.
    from batchdiff.applying.guests.recovery import recovered  # noqa: PLC0415

    return recovered(plan, notes, path_map)
