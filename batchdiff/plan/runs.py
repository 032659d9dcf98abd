"""The runs of a guest in a plan, kept as text until somebody computes with them (``plan_extents``).

A large fleet has ten million runs. As Python's lists and integers they would take gigabytes, and the collector
of cyclic garbage would go through them again and again; so they never become any. As numpy's arrays they
would have every report of a plan load numpy, which takes longer than all the rest of a report.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# 18 digits always fit into an int64, and no disk has that many units. No JSON number begins with 0 but 0 itself.
_NUMBER = r"(?!0[0-9])[0-9]{1,18}"
_SPACE = r"[ \t\n\r]*"
_RUN = rf"\[{_SPACE}{_NUMBER}{_SPACE},{_SPACE}{_NUMBER}{_SPACE}\]{_SPACE}"
_BEGIN = re.compile(rf"\[{_SPACE}")
# So many at a time, for the memory of a match grows with their number. Possessive quantifiers would need none, but
# find nothing at all in Python 3.11.2, which Debian 12 has (gh-106052).
_SOME = re.compile(rf"(?:{_RUN},{_SPACE}){{1,1000}}")
# As batchdiff writes them, in two fifths of the time.
_COMPACT = re.compile(rf"(?:\[{_NUMBER},{_NUMBER}\],){{1,1000}}{_SPACE}")
_END = re.compile(rf"{_RUN}\]")


@dataclass(frozen=True, slots=True)
class Runs:
    """A list of ``[first unit, number of units]``; ``text`` is its canonical JSON, without white space."""

    text: str

    @property
    def flat(self) -> str:
        """The numbers alone, with commas between them."""
        return self.text.encode("ascii").translate(None, b"[]").decode("ascii")  # half the time of replace()

    @property
    def units(self) -> int:
        """The number of units in all runs."""
        return sum(map(int, self.flat.split(",")[1::2]))


NO_RUNS = Runs("[]")


def match(text: str, at: int) -> tuple[Runs, int] | None:
    """The runs that stand in a JSON text, and where they end; None where something else does."""
    begun = _BEGIN.match(text, at)
    if begun is None:
        return None
    end = begun.end()
    if text.startswith("]", end):
        return NO_RUNS, end + 1
    while (some := _COMPACT.match(text, end) or _SOME.match(text, end)) is not None:
        end = some.end()
    last = _END.match(text, end)
    return None if last is None else (Runs("".join(text[at : last.end()].split())), last.end())
