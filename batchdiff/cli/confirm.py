"""The operator's confirmation before anything is deleted or thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchdiff.cli.console import Console
from batchdiff.errors import UsageError


@dataclass(frozen=True, slots=True)
class Question:
    """A question: what will be done, to what (one line each), and the alternative."""

    what: str
    lines: Sequence[str]
    otherwise: str


def state(console: Console, question: Question) -> None:
    """Print what will be done, for an operator who has confirmed it already."""
    console.warn(question.what)
    for line in question.lines:
        console.warn(f"  {line}")


def confirm(console: Console, verb: str, question: Question) -> None:
    """Ask the operator to confirm.

    :raises UsageError: the answer was no, or there is no terminal to ask on.
    """
    if not console.can_ask:
        raise UsageError(
            f"`batchdiff {verb}` asks before it deletes, and there is no terminal to ask on",
            remedy=f"Add `--yes` if that is what you want. {question.otherwise}",
        )
    state(console, question)
    if console.ask("Type yes to continue: ").lower() != "yes":
        raise UsageError("nothing was done", remedy=question.otherwise)
