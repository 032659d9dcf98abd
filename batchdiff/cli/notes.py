"""The notes of a plan's journal for verbs that only look or ask; recovered if the journal was lost."""

from __future__ import annotations

import argparse
import os

from batchdiff.applying.journal import read_notes
from batchdiff.applying.notes import Notes, Standing, mapped_notes
from batchdiff.cli.console import Console
from batchdiff.model.moved import NOTHING_MOVED, PathMap
from batchdiff.model.plan import Plan

_RECOVERED = (
    "warning: the journal {path} {lacks}. What was done was recovered from the template's sidecar and from the"
    " files themselves, for: {guests}"
)


def notes_of(
    console: Console, arguments: argparse.Namespace, plan: Plan, path_map: PathMap = NOTHING_MOVED
) -> Notes:
    """What the journal of a plan says. What it lacks, the sidecar and the files prove."""
    notes = mapped_notes(read_notes(arguments.plan, plan.checksum), path_map)
    found = {} if not _may_lack(plan, notes) else _recovered(plan, notes, path_map)
    if found:
        lacks = "lacks what was noted last" if notes.times else "is missing or empty"
        console.warn(_RECOVERED.format(path=f"{arguments.plan}.journal", lacks=lacks, guests=", ".join(found)))
    notes.standings.update(found)
    return notes


def _may_lack(plan: Plan, notes: Notes) -> bool:
    """Whether a file stands where an overlay would be that the journal has nothing of."""
    published = set(notes.published)
    return any(guest.name not in published and os.path.lexists(guest.overlay_path) for guest in plan.guests)


def _recovered(plan: Plan, notes: Notes, path_map: PathMap) -> dict[str, Standing]:
    # Imported here: it reads the headers of images, and status must not wait for what that loads.
    from batchdiff.applying.recovery import recovered  # noqa: PLC0415

    return recovered(plan, notes, path_map)
