"""The relation of a computed number of bytes to the number that df will show.

::

    exact + at least = at least         at least + at most = unknown         unknown + anything = unknown
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Exactness(enum.StrEnum):
    """The relation of a computed number to the true one."""

    EXACT = "exact"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    UNKNOWN = "unknown"


BOUND_WORDS = {Exactness.AT_LEAST: "at least ", Exactness.AT_MOST: "at most "}

UNKNOWN_AMOUNT = "an unknown amount of space"

_OPPOSITE = {Exactness.AT_LEAST: Exactness.AT_MOST, Exactness.AT_MOST: Exactness.AT_LEAST}


def of_sum(parts: Iterable[Exactness]) -> Exactness:
    """Return the exactness of a sum."""
    kinds = set(parts) - {Exactness.EXACT}
    if not kinds:
        return Exactness.EXACT
    return kinds.pop() if len(kinds) == 1 else Exactness.UNKNOWN


def of_difference(minuend: Exactness, subtrahend: Exactness) -> Exactness:
    """Return the exactness of a difference."""
    return of_sum([minuend, _OPPOSITE.get(subtrahend, subtrahend)])
