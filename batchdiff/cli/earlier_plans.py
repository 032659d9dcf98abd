"""Messages about earlier plans: the one that a new plan replaced, and those that converted guests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from batchdiff.cli.console import Console
from batchdiff.errors import UsageError
from batchdiff.files.filenames import shell_word
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import plan_in
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.units import few

if TYPE_CHECKING:
    from batchdiff.applying.journal.kept_plan import KeptPlan


def converted_guests(manifest: Manifest) -> dict[str, list[str]]:
    """Return the names of a manifest's converted guests, by the checksums of the plans that converted them."""
    found: dict[str, list[str]] = {}
    for guest in (*manifest.guests, *manifest.left_out):
        if guest.converted is not None:
            found.setdefault(guest.converted.plan, []).append(guest.name)
    return found


def say_kept(console: Console, path: str, kept: KeptPlan) -> None:
    """Print the new name of the plan that was at ``path``, and the states of its guests."""
    from batchdiff.report.fates import kept_words  # noqa: PLC0415

    guests = "; ".join(f"{few(names)}: {kept_words(what)}" for what, names in kept.guests.items())
    name = shell_word(kept.path)
    console.warn(
        f"the plan that was in {path} can still be undone, so it was renamed to {kept.path} ({guests})."
        f" Use that name with status, verify, restore and purge of these guests: batchdiff status {name}"
    )


def require_done_here(plan: Plan, names: Iterable[str] | None, verb: str) -> None:
    """Refuse guests that an earlier plan converted: only that plan, with its journal, can undo it.

    :raises UsageError: there is such a guest; the message names its plan, and the command to run.
    """
    asked = set(names or ())
    elsewhere = [(guest, plan_in(guest.reason)) for guest in plan.guests if guest.name in asked]
    found = [(guest, path) for guest, path in elsewhere if path]
    if found:
        said = "; ".join(f"{guest.name} was converted by {path}" for guest, path in found)
        raise UsageError(
            f"this plan has not converted {few([guest.name for guest, _ in found])}",
            why=said,
            remedy=_commands(found, verb),
        )


def _commands(found: list[tuple[GuestPlan, str]], verb: str) -> str:
    by_plan: dict[str, list[str]] = {}
    for guest, path in found:
        by_plan.setdefault(path, []).append(f"--guest {shell_word(guest.name)}")
    commands = [f"`batchdiff {verb} {shell_word(path)} {' '.join(names)}`" for path, names in by_plan.items()]
    return f"Run {' and '.join(commands)}."
