"""The runs of a guest in a plan, between numbers and JSON, in bulk.

::

    array of shape (runs, 2)  <-- table() --  "[[0,1],[7,3]]"  <-- match --  the text of a plan, any layout
                              -- runs_of -->

A large fleet has ten million runs. As Python's lists and integers they would take gigabytes, and the collector
of cyclic garbage would go through them again and again; so they never become any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# 18 digits always fit into an int64, and no disk has that many units. No JSON number begins with 0 but 0 itself.
_NUMBER = r"(?!0[0-9])[0-9]{1,18}+"
_SPACE = r"[ \t\n\r]*+"
_RUN = rf"\[{_SPACE}{_NUMBER}{_SPACE},{_SPACE}{_NUMBER}{_SPACE}\]{_SPACE}"
# Possessive, so that memory does not grow with the number of runs.
_RUNS = re.compile(rf"\[{_SPACE}(?:(?:{_RUN},{_SPACE})*+{_RUN})?\]")


@dataclass(frozen=True, slots=True)
class Runs:
    """A list of ``[first unit, number of units]``; ``text`` is its canonical JSON, without white space."""

    text: str

    def table(self) -> npt.NDArray[np.int64]:
        """The numbers, in an array of shape (runs, 2)."""
        flat = self.text.replace("[", "").replace("]", "")
        # For no numbers at all, numpy's reader warns.
        numbers = np.fromstring(flat, dtype=np.int64, sep=",") if flat else np.zeros(0, dtype=np.int64)
        return numbers.reshape(-1, 2)


def runs_of(table: npt.NDArray[np.int64]) -> Runs:
    """The runs of an array of shape (runs, 2)."""
    # One format for all: the lists and texts of single runs take three times as long.
    form = ",".join(["[%d,%d]"] * len(table))
    return Runs(f"[{form}]" % tuple(table.ravel().tolist()))


def match(text: str, at: int) -> tuple[Runs, int] | None:
    """The runs that stand in a JSON text, and where they end; None where something else does."""
    found = _RUNS.match(text, at)
    return None if found is None else (Runs("".join(found.group().split())), found.end())
