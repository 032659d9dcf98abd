"""A sample that can be doubled, with one item from each stratum; pure.

::

    strata      |        x  |  x        |      x    |   x       |        one item of each, at random
    doubled     | x   |  x  |  x  |  x  | x   |x    |   x |   x |        one more, from the half that had none

Every item of a stratum is equally likely to be drawn, and after doubling, every item of each half. So a doubled
sample is as good as one drawn directly from the halves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchdiff.frozen import frozen

_Numbers = npt.NDArray[np.int64]


@frozen(eq=False)
class Strata:
    """Strata of consecutive items; items are numbered from 0.

    ``edges``: the first item of each stratum, and the number of all items; ``drawn``: one item of each stratum.
    """

    edges: _Numbers
    drawn: _Numbers

    @property
    def population(self) -> int:
        """The number of all items."""
        return int(self.edges[-1])

    @property
    def sizes(self) -> _Numbers:
        """The number of items in each stratum."""
        return np.diff(self.edges)

    @property
    def is_complete(self) -> bool:
        """True if every item is drawn."""
        return len(self.drawn) == self.population


def first_strata(population: int, wanted: int, random: np.random.Generator) -> Strata:
    """Return a sample of ``wanted`` items, or of all items if there are at most twice as many."""
    count = population if population <= 2 * wanted else wanted
    edges = np.arange(count + 1, dtype=np.int64) * population // max(count, 1)
    return Strata(edges, random.integers(edges[:-1], edges[1:]) if count else edges[:0])


def doubled(strata: Strata, random: np.random.Generator) -> Strata:
    """Return the sample with strata of several items split in two, plus an item from each half that had none."""
    first, end, drawn = strata.edges[:-1], strata.edges[1:], strata.drawn
    middle = (first + end + 1) // 2
    splits = end - first > 1
    is_lower = drawn < middle
    low, high = np.where(is_lower, middle, first), np.where(is_lower, end, middle)
    more = random.integers(low[splits], high[splits])
    edges = np.sort(np.concatenate([strata.edges, middle[splits]]))
    return Strata(edges, np.sort(np.concatenate([drawn, more])))
