"""95% confidence intervals for shares and sums that are estimated from a sample of probes; pure.

::

    probes read   |  |        |##|        | #|        |  |        |##|        the hits among the units of each
    the whole   0 |------[ low ... estimate ... high ]-------------------| 1  share of hits

Differences come in clumps, so a thousand units of one probe can be worth no more than one. The variance is
therefore taken between probes. It yields the effective size, which is the size of an equally good sample of
independent units. The interval is the exact binomial interval for that size: a formula with the standard
deviation would report certainty if no difference was seen.

Sources: C. Clopper and E. Pearson, "The use of confidence or fiducial limits" (Biometrika 26, 1934); E. Korn and
B. Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from
survey data" (Survey Methodology 24, 1998); K. Wolter, "Introduction to Variance Estimation" (2007), chapter 8, for
one probe from each stratum; G. Zou and A. Donner, "Construction of confidence limits about effect measures"
(Statistics in Medicine 27, 2008), for sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batchdiff.frozen import frozen

_TAIL = 0.025
"""The nominal probability that the true value is below the interval; also that it is above the interval."""

_FEW = 10
"""If fewer probes have a hit, or a miss, the variance between probes is too uncertain."""

_MOST_GAIN = 4
"""The maximum number of independent units that a probe stands for, however alike neighbours are."""


@frozen
class Interval:
    """An estimate and its bounds, which are equal if the value is known."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the bounds."""
        return (self.high - self.low) / 2

    @property
    def is_exact(self) -> bool:
        """True if the value is known."""
        return self.low == self.high

    def times(self, factor: float) -> Interval:
        """Return the interval of ``factor`` times this value; ``factor`` must not be negative."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor)

    def subtracted_from(self, total: float) -> Interval:
        """Return the interval of ``total`` minus this value."""
        return Interval(total - self.estimate, total - self.high, total - self.low)

    def widened(self, *, below: float, above: float) -> Interval:
        """Return the same estimate with its bounds moved by these amounts."""
        return Interval(self.estimate, self.low - below, self.high + above)


def exactly(value: float) -> Interval:
    """Return the interval of a value that is known."""
    return Interval(value, value, value)


class Probe(NamedTuple):
    """The hits among the ``of`` units of one probe; both may be fractions, or weighted."""

    hits: float
    of: float


def share_of(probes: Sequence[Probe], *, population: int | None = None) -> Interval:
    """Return the share of hits among all units, estimated from a sample.

    ``probes``: drawn at random, or one from each stratum, and sorted by offset. If strata have different sizes,
    hits and units must be weighted by these sizes.
    ``population``: the number of all probes, drawn or not; None if the sample is a negligible part of them.
    Without any probe that has units, the interval is 0 to 1, or exactly 0 if the population is empty.
    """
    drawn = [probe for probe in probes if probe.of > 0]
    if not drawn:
        return exactly(0.0) if population == 0 else Interval(0.5, 0.0, 1.0)
    share = sum(each.hits for each in drawn) / sum(each.of for each in drawn)
    if population is not None and len(drawn) >= population:
        return exactly(share)
    low, high = _exact_bounds(share, _effective_size(drawn, share, population))
    if population is not None:
        # The probes that were read are known, whatever the others contain.
        hit = sum(each.hits / each.of for each in drawn)
        low = max(low, hit / population)
        high = min(high, 1 - (len(drawn) - hit) / population)
    return Interval(share, min(low, share), max(high, share))


def sum_of(parts: Iterable[Interval]) -> Interval:
    """Return the interval of the sum of values that were sampled independently of each other."""
    known = list(parts)
    total = sum(each.estimate for each in known)
    below = math.sqrt(sum((each.estimate - each.low) ** 2 for each in known))
    above = math.sqrt(sum((each.high - each.estimate) ** 2 for each in known))
    return Interval(total, total - below, total + above)


def _effective_size(drawn: Sequence[Probe], share: float, population: int | None) -> float:
    count = len(drawn)
    sampled = 0.0 if population is None else count / population
    hit = sum(1 for each in drawn if each.hits > 0)
    whole = sum(1 for each in drawn if each.hits >= each.of)
    if min(hit, count - whole) < _FEW:
        # A probe counts as at most one independent unit. The correction for the sampled part of the population
        # uses half of that part: without any hits, this gives about the bound of a sample without replacement.
        return min(_by_variance(drawn, share), count) / (1 - sampled / 2)
    return min(_by_variance(drawn, share), _MOST_GAIN * count) / (1 - sampled)


def _by_variance(drawn: Sequence[Probe], share: float) -> float:
    """Return the effective size; infinite if no neighbours differ."""
    count = len(drawn)
    mean = sum(each.of for each in drawn) / count
    residuals = [(each.hits - share * each.of) / mean for each in drawn]
    squares = sum((after - before) ** 2 for before, after in itertools.pairwise(residuals))
    if squares == 0:
        return math.inf
    variance = squares / (2 * count * (count - 1))
    return share * (1 - share) / variance


def _exact_bounds(share: float, size: float) -> tuple[float, float]:
    """Return the bounds of Clopper and Pearson; ``size`` may be a fraction."""
    hits = share * size
    misses = size - hits
    low = _beta_quantile(_TAIL, hits, misses + 1) if hits > 0 else 0.0
    high = _beta_quantile(1 - _TAIL, hits + 1, misses) if misses > 0 else 1.0
    return low, high


def _beta_quantile(probability: float, alpha: float, beta: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if _beta_cdf(middle, alpha, beta) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(value: float, alpha: float, beta: float) -> float:
    if value <= 0 or value >= 1:
        return float(value >= 1)
    front = math.exp(
        math.lgamma(alpha + beta)
        - math.lgamma(alpha)
        - math.lgamma(beta)
        + alpha * math.log(value)
        + beta * math.log1p(-value)
    )
    # The continued fraction converges quickly only up to about the mean; above it, the other tail is computed.
    if value < (alpha + 1) / (alpha + beta + 2):
        return front * _continued_fraction(value, alpha, beta) / alpha
    return 1 - front * _continued_fraction(1 - value, beta, alpha) / beta


def _continued_fraction(value: float, alpha: float, beta: float) -> float:
    """Return the continued fraction of the incomplete beta function (NIST DLMF 8.17.22), by Lentz's method."""
    tiny = 1e-300
    numerator, denominator = 1.0, 1.0 - (alpha + beta) * value / (alpha + 1)
    denominator = 1 / (denominator or tiny)
    result = denominator
    for step in range(1, 1000):
        even = step * (beta - step) * value / ((alpha + 2 * step - 1) * (alpha + 2 * step))
        odd = -(alpha + step) * (alpha + beta + step) * value / ((alpha + 2 * step) * (alpha + 2 * step + 1))
        change = 1.0
        for term in (even, odd):
            denominator = 1 / ((1 + term * denominator) or tiny)
            numerator = (1 + term / numerator) or tiny
            change = numerator * denominator
            result *= change
        if abs(change - 1) < 1e-12:
            break
    return result
