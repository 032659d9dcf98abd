"""Warnings that apply would refuse a new plan."""

from __future__ import annotations

import os

from batchdiff.applying.checks.space import check_space
from batchdiff.cli.console import Console
from batchdiff.errors import GuestError
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import sidecars_of
from batchdiff.units import few


def warn_of_changed_template(console: Console, plan: Plan) -> None:
    """Warn if the template has changed under overlays that still exist."""
    for sidecar in sidecars_of(plan):
        there = [path for path in sidecar.overlays if os.path.lexists(path)]
        if there and plan.template_digest not in {"", sidecar.digest}:
            one = len(there) == 1
            created, damaged = (
                ("an overlay was", "the overlay is") if one else ("overlays were", "these overlays are")
            )
            console.warn(
                f"warning: the content of {plan.template.source.path} changed after {created} created on it"
                f" ({few(sorted(there))}), so {damaged} damaged. Restore the template from a backup; `batchdiff"
                " apply` refuses this plan"
            )


def warn_of_space(console: Console, plan: Plan) -> None:
    """Warn if the check of free space fails."""
    try:
        check_space(plan.to_convert, plan.retire)
    except GuestError as error:
        # Advice about a failed system call ends with "run the same command again": here, that would be `plan`.
        advice = "Fix that before you apply the plan." if isinstance(error.__cause__, OSError) else error.remedy
        console.warn(f"warning: `batchdiff apply` would refuse this plan: {error.reason}. {advice}")
