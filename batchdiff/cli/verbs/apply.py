"""``batchdiff apply``: carry out a plan."""

from __future__ import annotations

import argparse

from batchdiff.applying.apply import apply_plan, check_options, originals_to_delete
from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.kept_originals import dependents_of_kept
from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.swap.apply_task import ApplyOptions
from batchdiff.choices import Retire, VerifyMode
from batchdiff.cli.confirm import Question, confirm, deletion, overlays_remain
from batchdiff.cli.console import Console
from batchdiff.cli.definition_changes import print_step_to_overlays, report_changes
from batchdiff.cli.format_doubts import warn_of_planned_formats
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.rebuilt_images import warn_of_rebuilding
from batchdiff.cli.run_session import carry_out, exit_code, report_space
from batchdiff.files.filenames import shell_path
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import Plan
from batchdiff.report.fates import must_stay
from batchdiff.report.results_text import results_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    plan = read_plan(arguments.plan)
    options = ApplyOptions(
        retire=arguments.retire or plan.retire,
        verify=arguments.verify,
        guests=None if arguments.guests is None else tuple(arguments.guests),
    )
    check_options(plan, options)
    history = history_of(console, arguments, plan)
    warn_of_planned_formats(console, plan, history, options.guests)
    if options.retire is Retire.DELETE and not arguments.yes:
        originals = originals_to_delete(plan, options, history)
        if originals:
            question = _question(originals, plan)
            if console.can_ask:
                paths = {path for path, _ in originals}
                gone = [
                    each for each in plan.to_convert if paths.intersection(original_names(each.source.path).all)
                ]
                warn_of_rebuilding(console, gone)
            confirm(console, "apply", question)
    if options.verify is not VerifyMode.FULL:
        console.say(f"Overlays are verified by batchdiff alone (--verify {options.verify}), not by QEMU.")
    space = FreeSpace.of(plan)
    outcomes = carry_out(console, arguments, plan, lambda session: apply_plan(session, options))
    console.result(results_text(outcomes, width=console.width))
    report_changes(console, arguments.plan, plan, outcomes)
    report_space(console, space, outcomes)
    print_step_to_overlays(console, arguments, plan, outcomes)
    _print_next_steps(console, shell_path(arguments.plan), plan, outcomes)
    return exit_code(outcomes)


def _question(originals: list[tuple[str, int]], plan: Plan) -> Question:
    images, it, kept = "full images", "the overlays", "originals"
    if len(originals) == 1:
        images, it, kept = "a full image", "the overlay", "original"
    return deletion(
        originals,
        condition=_condition(len(originals)),
        remains=f"{overlays_remain(plan, len(originals))}; `batchdiff restore` can rebuild {images} from {it} and"
        " the template.",
        otherwise=f"Use `--retire keep` or `--retire quarantine` to keep the {kept}.",
    )


def _condition(count: int) -> str:
    if count == 1:
        return " once QEMU finds its overlay identical (its VM must be shut down)"
    return ", each as soon as QEMU finds its overlay identical (their VMs must be shut down)"


def _print_next_steps(console: Console, path: str, plan: Plan, outcomes: list[GuestOutcome]) -> None:
    """Print the next steps; ``path`` is the plan's, quoted for a shell."""
    done = [outcome for outcome in outcomes if outcome.status is not Status.FAILED]
    fates = [outcome.original.fate for outcome in done]
    bound = dependents_of_kept(plan, [each.name for each in outcomes if each.original.fate is Fate.KEPT])
    kept = [outcome.name for outcome in done if outcome.original.fate is Fate.KEPT]
    devices = {guest.name for guest in plan.to_convert if guest.is_on_device}.intersection(kept)
    if devices - set(bound):
        console.say(
            "Originals that are block devices are always kept. Once you trust the overlays, remove the devices, or"
            " discard what is on them: only then does their space come back."
        )
    for sentence in must_stay(plan, bound):
        console.warn(sentence)
    left = devices.union(bound).intersection(kept)
    if len(left) < len(kept):
        one = len(kept) - len(left) == 1
        other, vm = "other " if left else "", "the VM" if one else "a VM"
        originals, them = (f"{other}original is", "it") if one else (f"{other}originals are", "them")
        console.say(
            f"The space is freed once the {originals} deleted."
            f" Before {'its VM runs on the overlay' if one else 'their VMs run on the overlays'},"
            f" `batchdiff apply {path} --retire quarantine` (or `--retire delete`) can retire {them}. If {vm}"
            " has already written to its overlay, delete the original yourself once you trust the overlay."
        )
    if Fate.QUARANTINED in fates:
        one = fates.count(Fate.QUARANTINED) == 1
        originals, are = ("original", "is") if one else ("originals", "are")
        console.say(
            f"The space is freed once the {originals} in quarantine {are} deleted. Once"
            f" {'the VM runs well on its overlay' if one else 'the VMs run well on their overlays'}, delete the"
            f" {originals} with `batchdiff purge {path} --used`. To go back, use `batchdiff restore {path}`."
        )
