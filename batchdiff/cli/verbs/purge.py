"""``batchdiff purge``: delete originals in quarantine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.applying.dry_run import dry_run_purge
from batchdiff.applying.guests.converted_elsewhere import done_elsewhere, require_done_here
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import Written
from batchdiff.applying.journal.records import Goal, GuestState, History
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.applying.undo import purge, purgeable
from batchdiff.cli.confirm import Question, confirm, deletion, overlays_remain
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.cli.rebuilt_images import warn_of_rebuilding
from batchdiff.cli.run_session import carry_out, dry_run, exit_code, report_space
from batchdiff.files import own_files
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.report.results_text import undone_text
from batchdiff.units import few

_NOTHING = "Nothing to purge: no original of this plan is known to be in quarantine."
_MAY_DIFFER = "its overlay has changed since the conversion, so the original is kept if QEMU finds a difference"
_CHANGED = "it has changed since it was planned, so it is kept if QEMU finds a difference"


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan, path_map = with_moved_paths(console, read_plan(arguments.plan), arguments)
    options = PurgeOptions(None if arguments.guests is None else tuple(arguments.guests), arguments.used)
    require_done_here(plan, options.guests, "purge")
    history = history_of(console, arguments, plan, path_map)
    if arguments.dry_run:
        outcomes = dry_run(console, arguments, plan, lambda session: dry_run_purge(session, options), history)
    else:
        _ask(console, plan, options, history, yes=arguments.yes)
        space = FreeSpace.of(plan)
        outcomes = carry_out(console, arguments, plan, lambda session: purge(session, options), path_map)
    console.result(
        undone_text(outcomes, width=console.width)
        if outcomes
        else f"{_NOTHING} {done_elsewhere(plan, 'purge')}".rstrip()
    )
    if not arguments.dry_run:
        report_space(console, space, outcomes)
    return exit_code(outcomes)


def _ask(console: Console, plan: Plan, options: PurgeOptions, history: History, *, yes: bool) -> None:
    states = purgeable(plan, history.states, options.guests)
    if yes or not states:
        return
    found = [guest for guest, _ in states]
    there = on_disk(plan, history)
    written = [(guest, there[guest.name].written) for guest in found if guest.name in there]
    paths = {guest.name: _path(guest, state) for guest, state in states}
    originals = [(paths[guest.name], guest.diff.savings.allocated_bytes) for guest in found]
    doubts = {
        paths[guest.name]: _CHANGED if Written.ORIGINAL in each else _MAY_DIFFER
        for guest, each in written
        if Written.ORIGINAL in each or (Written.OVERLAY in each and not options.used)
    }
    if console.can_ask:
        warn_of_rebuilding(console, found)
    rebuilt = [guest.source.path for guest, state in states if not state.published]
    confirm(console, "purge", _question(originals, doubts, _remains(plan, len(found), rebuilt), used=options.used))


def _path(guest: GuestToConvert, state: GuestState) -> str:
    """Return the path of an original in quarantine, or the one that an interrupted purge gave it."""
    names = original_names(guest.source.path)
    is_deleting = state.goal is Goal.PURGE and os.path.lexists(names.deleting)
    return names.deleting if is_deleting else names.quarantine


def _remains(plan: Plan, count: int, rebuilt: Sequence[str]) -> str:
    others = count - len(rebuilt)
    if not rebuilt:
        return overlays_remain(plan, others)
    images = f"the {'image' if len(rebuilt) == 1 else 'images'} that restore rebuilt, {few(rebuilt)}"
    return f"{images}; and {overlays_remain(plan, others, others=True)}" if others else images


def _question(
    originals: list[tuple[str, int]], doubts: Mapping[str, str], remains: str, *, used: bool
) -> Question:
    one = len(originals) == 1
    where = "there" if any(path.endswith(own_files.DELETING) for path, _ in originals) else "in quarantine"
    if used:
        condition = (
            f" even if {'its VM has' if one else 'their VMs have'} run since the conversion (the state from before"
            " the conversion cannot be restored afterwards)"
        )
    else:
        condition = f"{'' if one else ', each'} only if QEMU finds it identical to its VM's disk"
    return deletion(
        originals,
        condition=condition,
        remains=f"{remains}.",
        otherwise=f"The {'original is' if one else 'originals are'} still {where}.",
        doubts=doubts,
    )
