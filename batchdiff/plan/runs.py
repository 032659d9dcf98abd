"""The runs of a guest in a plan, kept as text until their numbers are needed (:mod:`batchdiff.plan.extents`).

A large fleet can have ten million runs. As lists of integers they would take more than a gigabyte, and the garbage
collector would visit them again and again. Arrays would need numpy, which takes longer to import than all the rest
of a report takes.
"""

from __future__ import annotations

import re

from batchdiff.frozen import frozen

MOST_DIGITS = 18
"""18 digits always fit into an int64, and no disk has 10^18 units."""

# A whole number in JSON starts with a 0 only if it is 0.
_NUMBER = rf"(?!0[0-9])[0-9]{{1,{MOST_DIGITS}}}"
_SPACE = r"[ \t\n\r]*"
_RUN = rf"\[{_SPACE}{_NUMBER}{_SPACE},{_SPACE}{_NUMBER}{_SPACE}\]{_SPACE}"
_BEGIN = re.compile(rf"\[{_SPACE}")
# At most 1000 runs, because a match takes memory for each. With possessive quantifiers it would take none, but the
# pattern would match nothing in Python 3.11.2, the version in Debian 12 (gh-106052).
_SOME = re.compile(rf"(?:{_RUN},{_SPACE}){{1,1000}}")
# The form that batchdiff writes; this pattern takes two fifths of the time that _SOME takes.
_COMPACT = re.compile(rf"(?:\[{_NUMBER},{_NUMBER}\],){{1,1000}}{_SPACE}")
_END = re.compile(rf"{_RUN}\]")


@frozen
class Runs:
    """A list of ``[first unit, number of units]``; ``text`` is its canonical JSON, without white space."""

    text: str

    @property
    def flat(self) -> str:
        """The numbers alone, separated by commas."""
        return self.text.encode("ascii").translate(None, b"[]").decode("ascii")  # twice as fast as replace()

    @property
    def units(self) -> int:
        """The number of units in all runs."""
        return sum(map(int, self.flat.split(",")[1::2]))


NO_RUNS = Runs("[]")


def match(text: str, at: int) -> tuple[Runs, int] | None:
    """Return the runs at an index of a JSON text, and the index after them; None if no list of runs is there."""
    opening = _BEGIN.match(text, at)
    if opening is None:
        return None
    end = opening.end()
    if text.startswith("]", end):
        return NO_RUNS, end + 1
    while (some := _COMPACT.match(text, end) or _SOME.match(text, end)) is not None:
        end = some.end()
    last = _END.match(text, end)
    return None if last is None else (Runs("".join(text[at : last.end()].split())), last.end())
