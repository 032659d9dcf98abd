"""The question before originals are deleted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from batchdiff.cli.console import Console
from batchdiff.errors import UsageError


def confirm(console: Console, verb: str, paths: Sequence[str]) -> None:
    """Asks whether the files of these paths shall be deleted.

    :raises UsageError: the answer was no, or there is nobody to ask.
    """
    otherwise = (
        "Use `--retire keep` or `--retire quarantine` to keep the originals."
        if verb == "apply"
        else "They stay in quarantine."
    )
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            f"`batchdiff {verb}` asks before it deletes, and there is no terminal to ask on",
            remedy=f"Add `--yes` if the originals shall be deleted once they are verified. {otherwise}",
        )
    console.warn(
        "these originals will be deleted, each once QEMU finds its overlay identical. Their VMs must be shut down:"
    )
    for path in paths:
        console.warn(f"  {path}")
    if console.ask("Type yes to go on: ").lower() != "yes":
        raise UsageError("nothing was done", remedy=otherwise)
