"""The option ``--map OLD=NEW``, which gives a plan its current paths."""

from __future__ import annotations

import argparse
import os

from batchdiff.choices import Strategy
from batchdiff.cli.console import Console
from batchdiff.errors import UsageError
from batchdiff.files.filenames import shell_path
from batchdiff.plan.path_map import NoSuchPlaceError, PathMap, move_in
from batchdiff.plan.plan import Plan


def with_moved_paths(console: Console, plan: Plan, arguments: argparse.Namespace) -> tuple[Plan, PathMap]:
    """Return the plan with its current paths, and the map for other documents.

    :raises UsageError: the maps cannot be used with the plan.
    """
    try:
        path_map = PathMap(tuple(move_in(text) for text in arguments.moves or ()))
        found = path_map.plan(plan)
    except ValueError as error:
        remedy = f"`batchdiff show {shell_path(arguments.plan)} --format json` prints the plan's paths."
        if isinstance(error, NoSuchPlaceError):
            remedy = (
                "NEW is where the files are now: correct it, mount its storage, or run the same command as a user"
                " who can reach it."
            )
        raise UsageError(
            f"cannot use `--map` with the plan {arguments.plan}", why=str(error), remedy=remedy
        ) from error
    template = found.template.source.path
    # A guest that shares blocks in place does not depend on the template.
    has_overlays = any(guest.strategy is Strategy.OVERLAY for guest in found.guests)
    if has_overlays and not os.path.lexists(template):
        hint = "If the images were moved, add `--map OLD=NEW`; see docs/moving.md"
        console.warn(f"warning: the template {template} cannot be found. {hint}")
    return found, path_map
