"""``batchdiff plan``: check the manifest and the plan's path, and leave the rest to ``new_plan``."""

from __future__ import annotations

import argparse
import os

from batchdiff.cli.console import Console
from batchdiff.cli.earlier_plans import converted_guests
from batchdiff.cli.new_plan.replaced_plan import leftovers_at, name_to_keep_at
from batchdiff.cli.options.scheduler_options import check_scheduler_options
from batchdiff.errors import UsageError
from batchdiff.files import own_files
from batchdiff.linux.call_failures import obstacle, reason
from batchdiff.linux.permissions import Deed
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.manifest.selection import read_selected
from batchdiff.manifest.text.input import is_piped
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.file import ELSEWHERE, try_folder
from batchdiff.plan.head import BEGINNING
from batchdiff.report.manifest_text import guest_lines
from batchdiff.signals import held_signals


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    if arguments.output is None and is_piped(arguments.manifest):
        raise UsageError(
            "the plan has no default name",
            why="the manifest comes from stdin or a pipe",
            remedy="Add `-o PLAN`, such as `-o fleet.plan.json`.",
        )
    check_scheduler_options(arguments)
    # The manifest and the path are checked before the scan, which may take hours.
    left = leftovers_at(arguments.output or default_plan_path(arguments.manifest))
    if arguments.guests is None:
        manifest = read_manifest(arguments.manifest, left=left)
    else:
        manifest = read_selected(arguments.manifest, arguments.guests, left=left)
    path = arguments.output or default_plan_path(manifest.path)
    _check_output(path)
    _check_apart(path, manifest)
    for line in guest_lines(manifest):
        console.detail(line)
    # A plan at this path that has converted guests will get another name, by which the new plan must refer to it.
    plans = _earlier_plans(manifest, path, name_to_keep_at(path, converted_guests(manifest)))
    # Imported late, so that a manifest's problems are reported sooner; with signals held, because numpy reports
    # Ctrl-C during its import as a broken installation.
    with held_signals():
        from batchdiff.cli.new_plan.new_plan import make_and_report  # noqa: PLC0415
        from batchdiff.image.open import load_formats  # noqa: PLC0415

        load_formats([manifest.template, *(guest.image for guest in manifest.guests)])
    return make_and_report(console, arguments, manifest, path, plans)


def _earlier_plans(manifest: Manifest, path: str, kept: str | None) -> EarlierPlans:
    output = os.path.abspath(path)
    folders = (os.path.dirname(output), os.path.dirname(manifest.path))
    return EarlierPlans(folders, renamed={} if kept is None else {output: os.path.abspath(kept)})


def default_plan_path(manifest_path: str) -> str:
    """Return the default path of a manifest's plan."""
    return os.path.splitext(manifest_path)[0] + ".plan.json"


def _check_output(path: str) -> None:
    _check_folder(os.path.dirname(os.path.abspath(path)))
    if not os.path.lexists(path):
        return
    head = b""
    if os.path.isfile(path) and not os.path.islink(path):
        try:
            with open(path, "rb") as file:
                head = file.read(64)
        except OSError as error:
            why = reason(error, Deed.READ, path)
            raise UsageError(f"{path} exists and cannot be read", why=why, remedy=ELSEWHERE) from error
    if head and not head.startswith(BEGINNING):
        raise UsageError(f"{path} exists and is not a plan", remedy=ELSEWHERE)
    if not head and not (os.path.isfile(path) and not os.path.islink(path)):
        raise UsageError(f"{path} is not a regular file", remedy=ELSEWHERE)
    # In a folder with the sticky bit, a new file can be created even if this one cannot be replaced.
    if (against := obstacle(Deed.DELETE, path)) is not None:
        raise UsageError(f"cannot replace {path}", why=against.why, remedy=f"{against.remedy} {ELSEWHERE}".strip())


def _check_apart(path: str, manifest: Manifest) -> None:
    """Check that neither the plan nor any of its own files beside it has the path of an overlay or data file."""
    own = {os.path.realpath(path + suffix) for suffix in ("", *own_files.BESIDE_PLAN)}
    for guest in manifest.guests:
        written = (guest.overlay_path, guest.options.data_file) if guest.gets_overlay else ()
        for name in filter(None, written):
            if os.path.realpath(name) in own:
                why = f"apply will write {name} for the guest {guest.name}"
                raise UsageError(f"cannot write the plan to {path}", why=why, remedy=ELSEWHERE)


def _check_folder(folder: str) -> None:
    try:
        try_folder(folder)
    except OSError as error:
        if not os.path.isdir(folder) and not isinstance(error, PermissionError):
            why = "it is not a folder" if os.path.exists(folder) else "there is no such folder"
        elif isinstance(error, FileNotFoundError):
            why = f"no file can be created in it ({error.strerror})"
        else:
            why = reason(error)
        raise UsageError(f"cannot write the plan to {folder}", why=why, remedy=ELSEWHERE) from error
