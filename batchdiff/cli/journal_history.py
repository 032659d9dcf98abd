"""The history of a plan, from its journal and, if that lacks guests, from the sidecar and the files."""

from __future__ import annotations

import argparse

from batchdiff.applying.guests.unrecorded import recover_unrecorded
from batchdiff.applying.journal.file import read_history
from batchdiff.applying.journal.records import History, mapped_history
from batchdiff.cli.console import Console
from batchdiff.plan.path_map import NOTHING_MOVED, PathMap
from batchdiff.plan.plan import Plan
from batchdiff.units import few

_RECOVERED = (
    "warning: the journal {path} {lacks}; if you have a complete copy, put it back, then run the same"
    " command again. The record of what apply did for {guests} was recovered from the template's sidecar and from"
    " the files themselves"
)


def history_of(
    console: Console, arguments: argparse.Namespace, plan: Plan, path_map: PathMap = NOTHING_MOVED
) -> History:
    """Return the history of a plan, and warn if its journal lacked states that could be recovered."""
    history = mapped_history(read_history(arguments.plan, plan.checksum), path_map)
    found = recover_unrecorded(plan, history, path_map)
    if found:
        lacks = "lacks its last lines" if history.times else "is missing, or has no record of this plan"
        console.warn(_RECOVERED.format(path=f"{arguments.plan}.journal", lacks=lacks, guests=few(found)))
    history.states.update(found)
    return history
