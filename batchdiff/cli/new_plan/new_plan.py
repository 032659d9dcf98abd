"""The second half of ``batchdiff plan``: scan the guests, write the plan, and report the savings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from batchdiff.cli.console import Console
from batchdiff.cli.earlier_plans import converted_guests, say_kept
from batchdiff.cli.new_plan.plan_warnings import warn_of_changed_template, warn_of_space
from batchdiff.cli.new_plan.progress import ScanProgress
from batchdiff.cli.new_plan.replaced_plan import replace_plan_at
from batchdiff.cli.new_plan.scheduler import remote_scans
from batchdiff.cli.warnings import warn_of_manifest
from batchdiff.errors import EXIT_DETAILED_CHANGES, EXIT_DONE, EXIT_SOME_GUESTS, StopError
from batchdiff.files.filenames import shell_path
from batchdiff.linux.machine import usable_cpus
from batchdiff.linux.permissions import is_read_only
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.file import read_plan
from batchdiff.plan.plan import Plan
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.json_form import plan_report
from batchdiff.report.plan.text import plan_text
from batchdiff.throttle.options import ScanLimits
from batchdiff.throttle.throttle import throttle


def make_and_report(
    console: Console, arguments: argparse.Namespace, manifest: Manifest, path: str, plans: EarlierPlans
) -> int:
    """Make the plan of a manifest, write it to ``path``, report it, and return the exit code."""
    older = read_plan(arguments.reuse) if arguments.reuse is not None else None
    limits = ScanLimits(arguments.cache, arguments.limit_rate, arguments.idle)
    jobs = arguments.jobs or usable_cpus()
    if arguments.connect is not None:
        manifest = _with_domains(manifest, arguments.connect)
    with (
        remote_scans(console, arguments, limits) as remote,
        _checkpoint(console, path) as checkpoint,
    ):
        earlier = EarlierResults(checkpoint, older, console.say, plans)
        # The display is loaded before the scan, because batchdiff may be updated during a long one.
        with console.metering() as meter, throttle(limits, tell=console.detail) as observer:
            progress = ScanProgress(meter, 1 + len(manifest.guests))
            warn_of_manifest(console, manifest, observer, progress.recognised)
            plan = make_plan(
                manifest,
                jobs=jobs,
                opened=progress.opened,
                progress=progress.scanned,
                assessed=progress.assessed,
                earlier=earlier,
                observer=observer,
                remote=remote,
            )
        # The checkpoint is discarded only once the plan is written: a crash before that does not lose the scan.
        replaced = replace_plan_at(path, plan, converted_guests(manifest))
        checkpoint.discard()
    if replaced is not None:
        say_kept(console, path, replaced)
    facts = PlanFacts(plan, jobs=usable_cpus(), read_only=is_read_only(plan.template.source.path))
    console.result(plan_text(facts, console.width))
    aside = None if replaced is None else os.path.abspath(replaced.path)
    if console.json:
        console.event("plan", path=os.path.abspath(path), kept=aside, report=plan_report(facts))
    # Reasons why apply would refuse the plan come after the report, where the operator sees them.
    warn_of_space(console, plan)
    warn_of_changed_template(console, plan)
    following = f" Next: batchdiff apply {shell_path(path)}" if plan.to_convert or plan.to_share else ""
    console.say(f"The plan is in {path}.{following}")
    return _exit_code(plan, detailed=arguments.detailed_exitcode)


@contextmanager
def _checkpoint(console: Console, path: str) -> Iterator[Checkpoint]:
    with closing(Checkpoint(path, warn=console.warn)) as checkpoint:
        try:
            yield checkpoint
        except KeyboardInterrupt as error:
            if not checkpoint.is_kept:
                raise
            raise StopError(
                f"interrupted; what has been scanned is kept in {checkpoint.path}",
                remedy="Run the same command again to continue from there.",
            ) from error


def _with_domains(manifest: Manifest, uri: str) -> Manifest:
    # Imported only now: without `--connect`, the verb does not use libvirt.
    from batchdiff.definitions.domain_state import images_of_active_domains  # noqa: PLC0415
    from batchdiff.definitions.virsh import Libvirt  # noqa: PLC0415

    users = images_of_active_domains(Libvirt(uri))
    guests = [replace(each, domain=users.get(os.path.realpath(each.image.path), "")) for each in manifest.guests]
    return replace(manifest, guests=tuple(guests))


def _exit_code(plan: Plan, *, detailed: bool) -> int:
    if plan.totals.refuse:
        return EXIT_SOME_GUESTS
    return EXIT_DETAILED_CHANGES if detailed and (plan.to_convert or plan.to_share) else EXIT_DONE
