"""Questions to the operator before something is deleted or discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from batchdiff.cli.console import Console
from batchdiff.errors import UsageError
from batchdiff.frozen import frozen
from batchdiff.plan.plan import Plan
from batchdiff.report.figures import count_of
from batchdiff.units import format_size


@frozen
class Question:
    """A question: what will be done, to what (``lines``), and what remains.

    ``otherwise``: advice if the operator does not confirm. ``last``: the prompt; it should repeat ``what`` if many
    lines can scroll that out of sight.
    """

    what: str
    lines: Sequence[str]
    otherwise: str
    remains: str = ""
    last: str = "Type yes to continue: "


_NO_DOUBTS: Mapping[str, str] = MappingProxyType({})


def deletion(
    originals: Sequence[tuple[str, int]],
    *,
    condition: str,
    remains: str,
    otherwise: str,
    doubts: Mapping[str, str] = _NO_DOUBTS,
) -> Question:
    """Return the question to ask before originals are deleted.

    ``originals``: paths, and bytes on disk. ``condition``: the words after "will be deleted", including the
    space or comma before them. ``doubts``: by path, why an original might be kept after all.
    """
    count = count_of(len(originals), "original")
    much = format_size(sum(size for _, size in originals))
    if doubts:
        count, much = f"up to {count}", f"at most {much}"
    sizes = [format_size(size) for _, size in originals]
    column = max(map(len, sizes), default=0)
    notes = [f" ({doubts[path]})" if path in doubts else "" for path, _ in originals]
    return Question(
        f"{count}, {much} on disk, will be deleted{condition}:",
        [f"{size:>{column}}  {path}{note}" for size, (path, _), note in zip(sizes, originals, notes, strict=True)],
        otherwise,
        f"What remains: {remains}",
        f"Type yes to delete {count} ({much}): ",
    )


def overlays_remain(plan: Plan, count: int, *, others: bool = False) -> str:
    """Return words for overlays that remain; ``others``: whether they follow words about other guests."""
    one = count == 1
    whose = ("the other guest's" if one else "the other guests'") if others else ("its" if one else "their")
    what = "overlay, which needs" if one else "overlays, which need"
    return f"{whose} {what} the template {plan.template.source.path}"


def state(console: Console, question: Question) -> None:
    """Print a question's facts, without asking."""
    console.warn(question.what)
    for line in question.lines:
        console.warn(f"  {line}")
    if question.remains:
        console.warn(question.remains)


def confirm(console: Console, verb: str, question: Question) -> None:
    """Ask the operator to confirm.

    :raises UsageError: the answer was not yes, or the operator cannot be asked.
    """
    if not console.can_ask:
        raise UsageError(
            f"`batchdiff {verb}` asks for confirmation, but there is no terminal to ask on",
            remedy=f"Add `--yes` to continue without being asked. {question.otherwise}",
        )
    state(console, question)
    if console.ask(question.last).lower() != "yes":
        raise UsageError("nothing was done", remedy=question.otherwise)
