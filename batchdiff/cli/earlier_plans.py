"""The plan that a new one replaced, and the plans that converted a manifest's guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchdiff.cli.console import Console
from batchdiff.files.filenames import shell_path
from batchdiff.manifest.manifest import Manifest
from batchdiff.units import few

if TYPE_CHECKING:
    from batchdiff.applying.journal.kept_plan import KeptPlan


def converted_guests(manifest: Manifest) -> dict[str, list[str]]:
    """Return the names of converted guests, by the checksums of the plans that converted them."""
    found: dict[str, list[str]] = {}
    for guest in (*manifest.guests, *manifest.left_out):
        if guest.converted is not None:
            found.setdefault(guest.converted.plan, []).append(guest.name)
    return found


def say_kept(console: Console, path: str, kept: KeptPlan) -> None:
    """Say that the plan at ``path`` was renamed, and why."""
    from batchdiff.report.fates import kept_words  # noqa: PLC0415

    guests = "; ".join(f"{few(names)}: {kept_words(what)}" for what, names in kept.guests.items())
    name = shell_path(kept.path)
    console.warn(
        f"the plan that was in {path} can still be undone, so it was renamed to {kept.path} ({guests})."
        f" Use that name with status, verify, restore and purge for these guests, as in: batchdiff status {name}"
    )
