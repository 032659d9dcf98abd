"""``batchdiff plan``: scans the guests of a manifest, writes the plan, and shows the savings."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Collection
from contextlib import closing

from batchdiff.applying.kept_plan import name_to_keep, replace_plan
from batchdiff.applying.leftovers import leftovers
from batchdiff.cli.console import Console
from batchdiff.cli.earlier_plans import converted_guests, say_kept
from batchdiff.cli.hints import warn_of_changed_template, warn_of_manifest, warn_of_space
from batchdiff.cli.progress import scan_progress
from batchdiff.errors import EXIT_DETAILED_CHANGES, EXIT_DONE, EXIT_SOME_GUESTS, ManifestError, UsageError
from batchdiff.image.faults import reason
from batchdiff.image.machine import usable_cpus
from batchdiff.image.names import shell_word
from batchdiff.model.earlier_plans import EarlierPlans
from batchdiff.model.manifest import Manifest
from batchdiff.model.manifest_conflicts import existing_overlay
from batchdiff.model.manifest_file import read_manifest
from batchdiff.model.manifest_input import STDIN, is_piped
from batchdiff.model.plan import Plan
from batchdiff.model.plan_file import read_plan, try_folder
from batchdiff.planning.checkpoint import Checkpoint
from batchdiff.planning.manners import Manners
from batchdiff.planning.planner import Earlier, make_plan
from batchdiff.planning.restraint import kept
from batchdiff.report.json_form import plan_report
from batchdiff.report.text import plan_text

_ELSEWHERE = "Choose another place with `-o`."


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Runs the verb."""
    if arguments.output is None and is_piped(arguments.manifest):
        raise UsageError(
            "the plan needs a name: a manifest from stdin or a pipe has none",
            remedy="Add `-o PLAN`, such as `-o fleet.plan.json`.",
        )
    left = leftovers(arguments.output or _default_path(arguments.manifest))
    manifest = _manifest(arguments.manifest, arguments.guests, left)
    path = arguments.output or _default_path(manifest.path)
    _check_output(path)
    older = read_plan(arguments.reuse) if arguments.reuse is not None else None
    converted = converted_guests(manifest)
    plans = _earlier_plans(manifest, path, name_to_keep(path, converted))
    jobs = arguments.jobs or usable_cpus()
    manners = Manners(arguments.cache, arguments.limit_rate, arguments.idle)
    with closing(Checkpoint(path, warn=console.warn)) as checkpoint:
        earlier = Earlier(checkpoint, older, console.say, plans)
        with kept(manners, tell=console.detail):
            warn_of_manifest(console, manifest)
            with scan_progress(console) as progress:
                plan = make_plan(manifest, jobs=jobs, progress=progress, earlier=earlier)
        replaced = replace_plan(plan, path, converted)
        checkpoint.discard()
    if replaced is not None:
        say_kept(console, path, replaced)
    console.result(plan_text(plan, width=console.width, jobs=usable_cpus()))
    aside = None if replaced is None else os.path.abspath(replaced.path)
    if console.json:
        console.event("plan", path=os.path.abspath(path), kept=aside, report=plan_report(plan))
    warn_of_space(console, plan)
    warn_of_changed_template(console, plan)
    following = f" Next: batchdiff apply {shell_word(path)}" if plan.totals.convert else ""
    console.say(f"The plan is in {path}.{following}")
    return _exit_code(plan, detailed=arguments.detailed_exitcode)


def _manifest(path: str, names: list[str] | None, left: Collection[str]) -> Manifest:
    """The manifest with the guests of those names, or all. Overlays that exist matter for the chosen ones only."""
    if names is None:
        return read_manifest(path, left=left)
    manifest = read_manifest(path, allow_existing_overlays=True)
    known = {guest.name for guest in manifest.guests}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"no guest of the manifest is called {', '.join(map(repr, unknown))}",
            remedy=f"There are: {', '.join(sorted(known))}.",
        )
    chosen = tuple(guest for guest in manifest.guests if guest.name in names)
    pending = [guest for guest in chosen if not guest.in_place and guest.converted is None]
    existing = [guest for guest in pending if os.path.lexists(guest.overlay_path)]
    if existing:
        shown = "<stdin>" if path == STDIN else path
        found = "\n".join(
            f"{shown}: {existing_overlay(g.overlay_path, g.name, is_left=g.overlay_path in left)}"
            for g in existing
        )
        raise ManifestError(found)
    left_out = tuple(guest for guest in manifest.guests if guest.name not in names)
    return dataclasses.replace(manifest, guests=chosen, left_out=left_out)


def _earlier_plans(manifest: Manifest, path: str, kept: str | None) -> EarlierPlans:
    """Return the plans that may have converted guests; that at ``path`` by the name that it is about to get."""
    output = os.path.abspath(path)
    folders = (os.path.dirname(output), os.path.dirname(manifest.path))
    return EarlierPlans(folders, renamed={} if kept is None else {output: os.path.abspath(kept)})


def _default_path(manifest_path: str) -> str:
    return os.path.splitext(manifest_path)[0] + ".plan.json"


def _check_output(path: str) -> None:
    """Fails before the scan, not after it, where the plan could not be written or would replace something else.

    :raises UsageError: no file can be made in the folder, or what stands there is no plan.
    """
    _check_folder(os.path.dirname(os.path.abspath(path)))
    if not os.path.lexists(path):
        return
    head = b""
    if os.path.isfile(path) and not os.path.islink(path):
        try:
            with open(path, "rb") as file:
                head = file.read(64)
        except OSError as error:
            raise UsageError(f"cannot look at {path}, which exists", why=error.strerror or str(error)) from error
    if head and not head.startswith(b'{"format_version"'):
        raise UsageError(f"{path} exists and is not a plan", remedy=_ELSEWHERE)
    if not head and not (os.path.isfile(path) and not os.path.islink(path)):
        raise UsageError(f"{path} is not a regular file", remedy=_ELSEWHERE)


def _check_folder(folder: str) -> None:
    try:
        try_folder(folder)
    except OSError as error:
        if not os.path.isdir(folder):
            why = "there is no such folder"
        elif isinstance(error, FileNotFoundError):
            why = f"it takes no new files ({error.strerror})"
        else:
            why = reason(error)
        raise UsageError(f"cannot write the plan to {folder}", why=why, remedy=_ELSEWHERE) from error


def _exit_code(plan: Plan, *, detailed: bool) -> int:
    if plan.totals.refuse:
        return EXIT_SOME_GUESTS
    return EXIT_DETAILED_CHANGES if detailed and plan.totals.convert else EXIT_DONE
