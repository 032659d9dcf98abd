"""``batchdiff restore``: give VMs their originals back, or images rebuilt from their overlays."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace

from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.applying.dry_run import dry_run_restore
from batchdiff.applying.guests.converted_elsewhere import done_elsewhere, require_done_here
from batchdiff.applying.guests.guest_files import on_disk, rebuilt_is_in_place
from batchdiff.applying.guests.status import OnDisk, TemplateIs, Written
from batchdiff.applying.journal.records import GuestState, History
from batchdiff.applying.restore_without_template import GuestWithState
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.undo import restorable, restore
from batchdiff.cli.confirm import Question, confirm, state
from batchdiff.cli.console import Console
from batchdiff.cli.definition_changes import must_change, print_definitions_step
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.cli.rebuilt_images import warn_of_rebuilding
from batchdiff.cli.run_session import carry_out, dry_run, exit_code, report_space
from batchdiff.cli.verbs.definitions import define_guests
from batchdiff.definitions.guest_disks import GuestDisk, guest_disks
from batchdiff.errors import UsageError
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.report.figures import count_of
from batchdiff.report.results_text import undone_text
from batchdiff.units import few, format_size

_NOTHING = "Nothing to restore: no guest of this plan is known to be converted."
_NOT_AS_PLANNED = " (its original has changed since it was planned)"


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan, path_map = with_moved_paths(console, read_plan(arguments.plan), arguments)
    options = RestoreOptions(
        guests=None if arguments.guests is None else tuple(arguments.guests),
        discard_changes=arguments.discard_changes,
        losses=frozenset(arguments.allow_loss),
    )
    require_done_here(plan, options.guests, "restore")
    history = history_of(console, arguments, plan, path_map)
    if not options.discard_changes:
        _warn_of_losses(console, plan, options, history)
    if arguments.dry_run:
        outcomes = dry_run(console, arguments, plan, lambda session: dry_run_restore(session, options), history)
    else:
        _ask(console, arguments, plan, options, history)
        space = FreeSpace.of(plan)
        outcomes = carry_out(console, arguments, plan, lambda session: restore(session, options), path_map)
    console.result(
        undone_text(outcomes, width=console.width)
        if outcomes
        else f"{_NOTHING} {done_elsewhere(plan, 'restore')}".rstrip()
    )
    code = exit_code(outcomes)
    if arguments.dry_run:
        return code
    report_space(console, space, outcomes)
    if arguments.define:
        # Not only the guests restored now: an earlier restore may have left a running domain's definition
        # unchanged.
        now = history_of(console, arguments, plan, path_map)
        defined = define_guests(console, arguments, _with_full_images(plan, now, options.guests))
        return code or defined
    if any(outcome.status is Status.RESTORED for outcome in outcomes):
        names = {outcome.name for outcome in outcomes if outcome.status is Status.RESTORED}
        restored = [guest for guest in plan.guests if guest.name in names]
        if changed := [guest for guest in restored if must_change(guest, plan.template.source)]:
            print_definitions_step(console, arguments, changed, "restored image", plan.template.source)
    return code


def _with_full_images(plan: Plan, history: History, chosen: tuple[str, ...] | None) -> list[GuestDisk]:
    published = {name for name, state in history.states.items() if state.published}
    disks = [disk for disk in guest_disks(plan, history) if chosen is None or disk.guest in chosen]
    whole = [disk for disk in disks if disk.guest not in published and os.path.exists(disk.now.path)]
    return [replace(disk, planned=None) for disk in whole]


def _ask(
    console: Console, arguments: argparse.Namespace, plan: Plan, options: RestoreOptions, history: History
) -> None:
    found = restorable(plan, history.states, options.guests)
    if not found:
        return
    if options.discard_changes:
        _ask_to_discard(console, found, on_disk(plan, history), yes=arguments.yes)
        return
    if not arguments.yes and options.guests is None and len(found) > 1 and console.can_ask:
        lines = [f"{guest.name}: {_way_back(guest.overlay_path, guest.source.path)}" for guest, _ in found]
        question = Question(
            f"all {len(found)} guests, whose VMs must be shut down, will be restored, and their overlays"
            f" ({_size_of_overlays(found)} on disk) will be deleted:",
            lines,
            "`--guest NAME` restores a single guest.",
            "What remains: full images with what the VMs see now.",
        )
        confirm(console, "restore", question)


def _ask_to_discard(
    console: Console, found: list[GuestWithState], there: Mapping[str, OnDisk], *, yes: bool
) -> None:
    """Print what is to be discarded and, unless ``yes`` is given, ask: discarding cannot be undone."""
    lost = _without_original(there, found)
    back = [each for each in found if each[0].name not in lost]
    if not back and yes:
        return  # restore fails for each guest, and reports why
    if not back:
        raise UsageError(
            f"{few(lost)} cannot go back to {'its original' if len(lost) == 1 else 'their originals'}",
            why=f"the {'original was' if len(lost) == 1 else 'originals were'} deleted or moved",
            remedy=_other_way([there.get(name) for name in lost]),
        )
    if lost:
        whose = "original of this guest was" if len(lost) == 1 else "originals of these guests were"
        console.warn(f"{few(lost)} will not be restored: the {whose} deleted or moved")
    notes = {name: _NOT_AS_PLANNED for name, files in there.items() if Written.ORIGINAL in files.written}
    lines = [
        f"{guest.name}: everything written to {guest.overlay_path}{notes.get(guest.name, '')}" for guest, _ in back
    ]
    question = _about_overlays_that_stay(back, there, lines) or _about_discarding(back, there, lines)
    if yes:
        state(console, question)
    else:
        confirm(console, "restore", question)


def _about_discarding(back: list[GuestWithState], there: Mapping[str, OnDisk], lines: list[str]) -> Question:
    one = len(back) == 1
    unread = "the overlay, if it cannot be read" if one else "any overlay that cannot be read"
    return Question(
        f"all changes in {count_of(len(back), 'guest')} since the conversion will be discarded, including all"
        f" snapshots in {'its overlay' if one else 'their overlays'} ({_size_of_overlays(back)} on disk):",
        lines,
        f"Leave out `--discard-changes` to keep what the {'VM has' if one else 'VMs have'} written.",
        f"What remains: {_what_remains(back, there)}, and {unread}.",
    )


def _about_overlays_that_stay(
    back: list[GuestWithState], there: Mapping[str, OnDisk], lines: list[str]
) -> Question | None:
    """Return the question for a missing template, without which no overlay is deleted; otherwise None."""
    if not any(_lacks_template(there.get(guest.name)) for guest, _ in back):
        return None
    one = len(back) == 1
    originals = "its original" if one else "their originals"
    return Question(
        f"the template is missing, so {count_of(len(back), 'guest')} will go back to {originals} without what has"
        " been written since the conversion:",
        lines,
        f"Bring the template back to keep what the {'VM has' if one else 'VMs have'} written.",
        f"What remains: {_what_remains(back, there)}, and the overlay{'' if one else 's'}.",
    )


def _lacks_template(files: OnDisk | None) -> bool:
    return files is not None and files.template is TemplateIs.MISSING


def _other_way(lost: list[OnDisk | None]) -> str:
    if all(files is not None and files.overlay and not _lacks_template(files) for files in lost):
        what = "a full image from the overlay" if len(lost) == 1 else "full images from the overlays"
        return f"Run the same command without `--discard-changes` to rebuild {what}."
    if len(lost) == 1:
        return "Bring the original back; if it was moved, add `--map OLD=NEW`."
    return "Bring the originals back; if they were moved, add `--map OLD=NEW`."


def _what_remains(back: list[GuestWithState], there: Mapping[str, OnDisk]) -> str:
    one = len(back) == 1
    if all(_is_as_planned(guest, known, there.get(guest.name)) for guest, known in back):
        return f"the {'original, as it was' if one else 'originals, as they were'} before the conversion"
    return "the full image at the guest's path" if one else "the full images at the guests' paths"


def _is_as_planned(guest: GuestToConvert, known: GuestState, files: OnDisk | None) -> bool:
    """Return whether a guest goes back to a file that is its original, unchanged as far as sizes and mtimes show.

    False for a block device, even if it is the original.
    """
    if files is None or files.original is None or guest.is_on_device or rebuilt_is_in_place(guest, known):
        return False
    return Written.ORIGINAL not in files.written


def _without_original(there: Mapping[str, OnDisk], found: list[GuestWithState]) -> list[str]:
    gone = {name for name, files in there.items() if files.original is None and not files.doubt}
    return [guest.name for guest, known in found if guest.name in gone and not rebuilt_is_in_place(guest, known)]


def _warn_of_losses(console: Console, plan: Plan, options: RestoreOptions, history: History) -> None:
    there = on_disk(plan, history)
    found = [each for each in restorable(plan, history.states, options.guests) if _is_rebuilt(there, each[0].name)]
    warn_of_rebuilding(console, [guest for guest, _ in found])


def _is_rebuilt(there: Mapping[str, OnDisk], guest: str) -> bool:
    """Return whether a guest's image may have to be rebuilt."""
    files = there.get(guest)
    return files is None or files.original is None or bool(files.written)


def _way_back(overlay: str, original: str) -> str:
    return original if overlay == original else f"{overlay} -> {original}"


def _size_of_overlays(found: list[GuestWithState]) -> str:
    total = 0
    for guest, _ in found:
        for path in filter(None, (guest.overlay_path, guest.options.data_file)):
            with contextlib.suppress(OSError):
                total += os.lstat(path).st_blocks * 512
    return format_size(total)
