"""Warnings about a plan that was made: what apply would refuse later is reported at once."""

from __future__ import annotations

import os

from batchdiff.applying.space import check_space
from batchdiff.cli.console import Console
from batchdiff.errors import GuestError
from batchdiff.model.plan import Plan, Verdict
from batchdiff.model.sidecar import sidecars_of
from batchdiff.units import few


def warn_of_changed_template(console: Console, plan: Plan) -> None:
    """Say at once what apply would refuse: overlays of an earlier plan rest on another content of the template."""
    for sidecar in sidecars_of(plan):
        there = [path for path in sidecar.overlays if os.path.lexists(path)]
        if there and plan.template_digest not in {"", sidecar.digest}:
            console.warn(
                f"warning: the content of {plan.template.source.path} changed after overlays were put on it"
                f" ({few(sorted(there))}): they are damaged. Restore the template from a backup; `batchdiff apply`"
                " refuses this plan"
            )


def warn_of_space(console: Console, plan: Plan) -> None:
    """Says at once what apply would refuse later: that a filesystem has not enough space."""
    try:
        check_space([guest for guest in plan.guests if guest.verdict is Verdict.CONVERT], plan.retire)
    except GuestError as error:
        console.warn(f"warning: apply would be refused: {error}")
