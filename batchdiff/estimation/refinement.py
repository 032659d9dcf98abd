"""The choice of samples to double, so that a total becomes certain enough with few reads.

::

    variance of each sample   |##########|######|###|#|     doubling a sample about halves its variance;
    doubled                   |#####     |###   |###|#|     the largest first, until the sum is small enough
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from batchdiff.estimation.guest_sample import GuestSample


def refine(samples: Mapping[str, GuestSample], target: float) -> bool:
    """Double class samples until the sum of all prices should be certain enough; return False if it already is.

    ``target``: the maximum half width of the sum's interval, in bytes. Each class sample is doubled at most once.
    """
    squares = [
        (interval.half_width**2, name, kind)
        for name, sample in samples.items()
        for kind, interval in sample.data_bytes().items()
        if not interval.is_exact
    ]
    left = sum(square for square, *_ in squares)
    if math.sqrt(left) <= target:
        return False
    for square, name, kind in sorted(squares, reverse=True):
        samples[name].double(kind)
        left -= square / 2
        if math.sqrt(max(left, 0.0)) <= target:
            break
    return bool(squares)
