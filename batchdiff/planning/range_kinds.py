"""Puts the kinds of windows together to what a range has; pure.

::

    largest cluster     |           2 MiB           |           2 MiB           |
    windows             |      |differs|      |      |      |      |      |      |
    in the extents      |#######  all of it  #######|  nothing
"""

from __future__ import annotations

import numpy as np

from batchdiff import extents
from batchdiff.extents import Extents, Kind
from batchdiff.planning.compare import WINDOW, Kinds
from batchdiff.planning.spans import Span, Spans, span_units
from batchdiff.units import MIB

_WINDOWS_IN_CLUSTER = 2 * MIB // WINDOW
"""Windows in the largest cluster."""


def within(around: Kinds, kinds: Kinds, span: Span) -> Kinds:
    """The kinds of a window: some in a span, others around it."""
    whole, units = around.copy(), span_units(span)
    whole[units] = kinds[units]
    return whole


def assume_data(equal: Kinds, there: Spans) -> None:
    """Unread parts of the template count as data: at worst a cluster of zeros is written as one of data."""
    for window, span in there.items():
        equal[window, span_units(span)] = Kind.SAME


def replaced_units(kinds: dict[int, Kinds], equal: Kinds) -> int:
    """How many units of the template that are not zeros a guest has other data in, in its windows that differ."""
    found = np.stack(list(kinds.values()))
    return int(np.count_nonzero((found == Kind.DATA) & (equal[list(kinds)] != Kind.SAME_ZERO)))


def joined(kinds: dict[int, Kinds], equal: Kinds, first_unit: int) -> Extents:
    """The extents of a range from its windows with differences.

    A window without any is needed all the same where it shares a largest cluster with one that has some.
    """
    whole = np.zeros_like(equal)
    for cluster in {number // _WINDOWS_IN_CLUSTER for number in kinds}:
        windows = slice(cluster * _WINDOWS_IN_CLUSTER, (cluster + 1) * _WINDOWS_IN_CLUSTER)
        whole[windows] = equal[windows]
    for number, found in kinds.items():
        whole[number] = found
    return extents.from_kinds(whole.reshape(-1), first_unit)
