"""How a number of bytes stands to what df will show.

::

    exact + at least = at least         at least + at most = unknown         unknown + anything = unknown
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Exactness(enum.StrEnum):
    """Whether a number can be relied on, and on which side it may be off."""

    EXACT = "exact"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    UNKNOWN = "unknown"


_OPPOSITE = {Exactness.AT_LEAST: Exactness.AT_MOST, Exactness.AT_MOST: Exactness.AT_LEAST}


def of_sum(parts: Iterable[Exactness]) -> Exactness:
    """Return what a sum of such numbers is; of no numbers at all, exact."""
    kinds = set(parts) - {Exactness.EXACT}
    if not kinds:
        return Exactness.EXACT
    return kinds.pop() if len(kinds) == 1 else Exactness.UNKNOWN


def of_difference(minuend: Exactness, subtrahend: Exactness) -> Exactness:
    """Return what a number less another is: what is less by at most so much is at least the rest."""
    return of_sum([minuend, _OPPOSITE.get(subtrahend, subtrahend)])
