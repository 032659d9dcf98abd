"""The relation of a computed number of bytes to the number that df will show.

::

    exact + at least = at least         at least + at most = unknown         unknown + anything = unknown
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Exactness(enum.StrEnum):
    """The reliability of a number: exact, a lower bound, an upper bound, or unknown."""

    EXACT = "exact"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    UNKNOWN = "unknown"


BOUND_WORDS = {Exactness.AT_LEAST: "at least ", Exactness.AT_MOST: "at most "}
"""The words before a number that is only a bound."""

UNKNOWN_AMOUNT = "an unknown amount of space"
"""The words for an unknown number of bytes."""

_OPPOSITE = {Exactness.AT_LEAST: Exactness.AT_MOST, Exactness.AT_MOST: Exactness.AT_LEAST}


def of_sum(parts: Iterable[Exactness]) -> Exactness:
    """Return the exactness of a sum, from that of its parts; an empty sum is exact."""
    kinds = set(parts) - {Exactness.EXACT}
    if not kinds:
        return Exactness.EXACT
    return kinds.pop() if len(kinds) == 1 else Exactness.UNKNOWN


def of_difference(minuend: Exactness, subtrahend: Exactness) -> Exactness:
    """Return a difference's exactness: an exact number minus an upper bound is a lower bound, and vice versa."""
    return of_sum([minuend, _OPPOSITE.get(subtrahend, subtrahend)])
