"""``batchdiff estimate``: estimate from samples what a plan would save."""

from __future__ import annotations

import argparse
import os

from batchdiff.choices import Verdict
from batchdiff.cli.console import Console
from batchdiff.cli.new_plan.progress import ScanProgress
from batchdiff.cli.new_plan.replaced_plan import leftovers_at
from batchdiff.cli.verbs.plan import default_plan_path
from batchdiff.cli.warnings import warn_of_manifest
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS
from batchdiff.estimation.estimate import Estimate
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.files.filenames import shell_option, shell_path
from batchdiff.linux.machine import usable_cpus
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.selection import read_selected
from batchdiff.manifest.text.input import is_piped
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.progress import Meter, Phase
from batchdiff.report.estimate.json_form import estimate_report
from batchdiff.report.estimate.text import estimate_text
from batchdiff.report.manifest_text import guest_lines
from batchdiff.throttle.options import ScanLimits
from batchdiff.throttle.throttle import throttle


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    left = () if is_piped(arguments.manifest) else leftovers_at(default_plan_path(arguments.manifest))
    if arguments.guests is None:
        manifest = read_manifest(arguments.manifest, left=left)
    else:
        manifest = read_selected(arguments.manifest, arguments.guests, left=left)
    for line in guest_lines(manifest):
        console.detail(line)
    limits = ScanLimits(arguments.cache, arguments.limit_rate, arguments.idle)
    with console.metering() as meter, throttle(limits, tell=console.detail) as observer:
        progress = ScanProgress(meter, images=1 + len(manifest.guests))
        warn_of_manifest(console, manifest, observer, progress.recognised)
        options = EstimateOptions(
            error=arguments.error,
            seed=arguments.seed,
            jobs=arguments.jobs or usable_cpus(),
            opened=progress.opened,
            progress=lambda done, total: _sampled(meter, done, total),
            observer=observer,
        )
        estimate = make_estimate(manifest, options, EarlierPlans((os.path.dirname(manifest.path),)))
    console.result(estimate_text(estimate, console.width))
    console.event("estimate", report=estimate_report(estimate))
    if any(guest.is_worked_on for guest in estimate.guests) and not is_piped(arguments.manifest):
        chosen = "".join(f" {shell_option('--guest', name)}" for name in arguments.guests or ())
        console.say(f"Next: batchdiff plan {shell_path(arguments.manifest)}{chosen}")
    return _exit_code(estimate)


def _sampled(meter: Meter, done: int, total: int) -> None:
    """Report the bytes read so far; ``total`` may grow."""
    meter.lengthen(None, Phase.SCAN, total)
    meter.begin()
    meter.reach(None, Phase.SCAN, done)


def _exit_code(estimate: Estimate) -> int:
    return EXIT_SOME_GUESTS if estimate.totals.verdicts.get(Verdict.REFUSE) else EXIT_DONE
