"""The facts that `batchdiff doctor` found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from batchdiff.doctor.fact import Ability, Fact
from batchdiff.report.printable import printable
from batchdiff.report.table import paragraph

_MARKS = {Ability.GOOD: "  ", Ability.LIMITED: "* ", Ability.MISSING: "! "}


def doctor_text(facts: Sequence[Fact], *, width: int | None = None) -> str:
    """Return the facts and a conclusion, for a terminal that is ``width`` cells wide (None: no terminal).

    There must be at least one fact, and the facts of one subject must be consecutive.
    """
    names = max(len(fact.name) for fact in facts)
    lines = []
    for subject, group in groupby(facts, key=lambda fact: fact.subject):
        lines.append(printable(subject))
        for fact in group:
            first = f"{_MARKS[fact.ability]}{fact.name:<{names}}  "
            text = f"{fact.value}. {fact.effect}" if fact.effect else fact.value
            lines.append(paragraph(printable(text), width=width, first=first, rest=" " * len(first)))
        lines.append("")
    return "\n".join([*lines, _verdict(facts)]) + "\n"


def _verdict(facts: Sequence[Fact]) -> str:
    abilities = {fact.ability for fact in facts}
    if Ability.MISSING in abilities:
        return "batchdiff cannot do all of its work here: see the lines that start with !"
    if Ability.LIMITED in abilities:
        return "batchdiff can do its work here, within the limits given in the lines that start with *"
    return "batchdiff can do its work here."
