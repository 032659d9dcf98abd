"""``batchdiff verify``: check the template, the overlays, and the guests that share blocks."""

from __future__ import annotations

import argparse

from batchdiff.applying.health_check import check_health
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.logs.metrics import verify_metrics
from batchdiff.cli.logs.textfile import check_textfile, write_textfile
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.cli.run_session import advising_to_start_over, explained
from batchdiff.cli.signals import stopping
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS, BatchdiffError, PlanError, UsageError, VerificationError
from batchdiff.linux.machine import usable_cpus
from batchdiff.plan.file import read_plan
from batchdiff.report.events import finding_event
from batchdiff.report.health_text import health_text


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.textfile is not None:
        check_textfile(arguments.textfile)
    plan, path_map = with_moved_paths(console, read_plan(arguments.plan), arguments)
    names = None if arguments.guests is None else tuple(arguments.guests)
    found: list[Finding] = []
    history = history_of(console, arguments, plan, path_map)
    jobs = arguments.jobs or usable_cpus()
    try:
        with stopping() as stop, console.metering() as meter, explained(), advising_to_start_over():
            for finding in check_health(plan, history, names, stop, jobs=jobs, meter=meter):
                found.append(finding)
                console.event("finding", **finding_event(finding))
    except BatchdiffError:
        _warn_of_faults(console, found)
        raise
    console.result(health_text(found, width=console.width))
    code = _exit_code(found)
    if arguments.textfile is not None:
        _write_metrics(console, arguments, found, success=code == EXIT_DONE)
    return code


def _warn_of_faults(console: Console, found: list[Finding]) -> None:
    """Report the faults found: no result will show them."""
    for each in found:
        if each.health in {Health.DAMAGED, Health.STALE, Health.UNKNOWN}:
            console.warn(f"{each.name}: {each.health}: {each.why}")


def _write_metrics(
    console: Console, arguments: argparse.Namespace, found: list[Finding], *, success: bool
) -> None:
    """Write the metrics; if that fails, keep the exit code of any problem that verify found."""
    try:
        write_textfile(arguments.textfile, arguments.plan, "verify", verify_metrics(found, success=success))
    except UsageError as error:
        if success:
            raise
        console.error(error)


def _exit_code(found: list[Finding]) -> int:
    health = {finding.health for finding in found}
    if Health.DAMAGED in health:
        return VerificationError.exit_code
    if Health.STALE in health:
        return PlanError.exit_code
    return EXIT_SOME_GUESTS if Health.UNKNOWN in health else EXIT_DONE
