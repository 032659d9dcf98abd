"""``batchdiff restore``: give the VMs full images again, their originals or images rebuilt from overlays."""

from __future__ import annotations

import argparse

from batchdiff.applying.checks.overlay_losses import decrypted_by_rebuilding, lost_with_originals, not_given_back
from batchdiff.applying.dry_run import dry_run_restore
from batchdiff.applying.guests.converted_elsewhere import require_done_here
from batchdiff.applying.journal.records import History, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.undo import restorable, restore
from batchdiff.cli.confirm import Question, confirm, state
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.cli.run_session import carry_out, dry_run, exit_code
from batchdiff.cli.verbs.definitions import define_guests
from batchdiff.definitions.guest_disks import GuestDisk, guest_disks
from batchdiff.files.filenames import shell_line
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import Plan
from batchdiff.report.results_text import undone_text
from batchdiff.units import few


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
    if arguments.dry_run:
        outcomes = dry_run(console, arguments, plan, lambda session: dry_run_restore(session, options), history)
    else:
        _ask(console, arguments, plan, options, history)
        outcomes = carry_out(console, arguments, plan, lambda session: restore(session, options), path_map)
    if not outcomes:
        console.say("Nothing to restore: no guest of this plan is known to be converted.")
    console.result(undone_text(outcomes, width=console.width))
    code = exit_code(outcomes)
    if arguments.dry_run:
        return code
    if arguments.define:
        # The journal now has those that an earlier restore gave back as well, but whose domains were not shut off.
        now = history_of(console, arguments, plan, path_map)
        defined = define_guests(console, arguments, _restored(plan, now, options.guests))
        return code or defined
    if any(outcome.status is Status.RESTORED for outcome in outcomes):
        _print_next_step(console, arguments)
    return code


def _restored(plan: Plan, history: History, chosen: tuple[str, ...] | None) -> list[GuestDisk]:
    """Return the disks of the chosen guests that have been restored; None: of all guests."""
    names = {name for name, state in history.states.items() if state.step is Step.RESTORED}
    return [disk for disk in guest_disks(plan, history) if disk.guest in names and disk.guest in (chosen or names)]


def _print_next_step(console: Console, arguments: argparse.Namespace) -> None:
    """Print the command that shows, or makes, the change of definitions."""
    words = ["batchdiff", "definitions", arguments.plan]
    words += ["--connect", arguments.connect] if arguments.connect else []
    words += [word for move in arguments.moves or () for word in ("--map", move)]
    console.say(
        f"The VMs' definitions must name the restored images: `{shell_line(words)}` shows what must change; with"
        " --define it changes it."
    )


def _ask(
    console: Console, arguments: argparse.Namespace, plan: Plan, options: RestoreOptions, history: History
) -> None:
    """Ask before anything is thrown away, and before a command that names no guest restores a whole fleet.

    Even with ``--yes``, print the losses: data that is thrown away, and features that a rebuilt image lacks.
    """
    found = restorable(plan, history.states, options.guests)
    if not found:
        return
    # Discarding cannot be undone: list all that is lost, and ask unless --yes has answered.
    if options.discard_changes:
        lines = [f"{guest.name}: everything written to {guest.overlay_path}" for guest, _ in found]
        question = Question(
            "what VMs have written since the conversion will be thrown away, with all snapshots of the overlays:",
            lines,
            "Leave `--discard-changes` out to keep what the VMs wrote.",
        )
        if arguments.yes:
            state(console, question)
        else:
            confirm(console, "restore", question)
        return
    # Otherwise the VMs keep their data, and only features of rebuilt images can be lost.
    differences = {(guest.source.format, words) for guest, _ in found for words in not_given_back(guest.source)}
    for form, words in sorted(differences):
        console.warn(f"note: if an image of a {form} guest has to be rebuilt, {words}")
    for words, names in lost_with_originals(guest for guest, _ in found).items():
        console.warn(f"note: if the image of {few(names)} has to be rebuilt, it will lack {words} of the original")
    if names := decrypted_by_rebuilding(guest for guest, _ in found):
        console.warn(
            f"note: if the image of {few(names)} has to be rebuilt, what its VM wrote to the encrypted overlay"
            " will be stored in the clear, because the original was not encrypted"
        )
    if not arguments.yes and options.guests is None and len(found) > 1 and console.can_ask:
        lines = [f"{guest.name}: {guest.overlay_path} -> {guest.source.path}" for guest, _ in found]
        question = Question(
            f"all {len(found)} guests will be restored. Their VMs must be shut down:",
            lines,
            "`--guest NAME` restores a single one.",
        )
        confirm(console, "restore", question)
