"""Name the earlier plans that converted guests, so that restore or purge can be run with those plans."""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.errors import UsageError
from batchdiff.files.filenames import shell_option, shell_word
from batchdiff.plan.earlier_plans import plan_in
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.units import few


def require_done_here(plan: Plan, names: Iterable[str] | None, verb: str) -> None:
    """Refuse named guests that a known earlier plan converted: only that plan's journal records the conversion.

    :raises UsageError: there is such a guest.
    """
    asked = set(names or ())
    elsewhere = [(guest, plan_in(guest.reason)) for guest in plan.guests if guest.name in asked]
    found = [(guest, path) for guest, path in elsewhere if path]
    if found:
        said = "; ".join(f"{guest.name} was converted by {path}" for guest, path in found)
        raise UsageError(
            f"this plan did not convert {few([guest.name for guest, _ in found])}",
            why=said,
            remedy=_commands(found, verb),
        )


def done_elsewhere(plan: Plan, verb: str) -> str:
    """Return sentences about guests that known earlier plans converted; empty if there are none."""
    found = [path for guest in plan.guests if (path := plan_in(guest.reason))]
    if not found:
        return ""
    plans = dict.fromkeys(found)
    made = "An earlier plan has" if len(plans) == 1 else "Earlier plans have"
    those = "that guest" if len(found) == 1 else "those guests"
    ways = " or ".join(f"`batchdiff {verb} {shell_word(path)} --guest NAME`" for path in plans)
    return f"{made} converted {len(found)} of this plan's guests. For {those}, run {ways}."


def _commands(found: list[tuple[GuestPlan, str]], verb: str) -> str:
    by_plan: dict[str, list[str]] = {}
    for guest, path in found:
        by_plan.setdefault(path, []).append(shell_option("--guest", guest.name))
    commands = [f"`batchdiff {verb} {shell_word(path)} {' '.join(names)}`" for path, names in by_plan.items()]
    return f"Run {' and '.join(commands)}."
