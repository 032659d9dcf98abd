"""The extents of a range, joined from the kinds of its windows; pure.

::

    largest cluster     |           2 MiB           |           2 MiB           |
    windows             |      |differs|      |      |      |      |      |      |
    in the extents      |#######  all of it  #######|  nothing
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np

from batchdiff import extents
from batchdiff.extents import Extents, Kind
from batchdiff.image.content_digest import RangeDigest
from batchdiff.planning.scan.compare import WINDOW, Flags, Kinds
from batchdiff.planning.scan.spans import Span, Spans, span_units
from batchdiff.units import MIB

_WINDOWS_IN_CLUSTER = 2 * MIB // WINDOW


@dataclass(slots=True)
class RangeFindings:
    """The findings of a range.

    ``equal``: by window, the kinds of a guest that equals the template there. ``kinds``: by guest and window, for
    windows that differ. ``holes``: by guest and window, whether metadata shows the guest to be all zeros there.
    """

    equal: Kinds
    kinds: dict[int, dict[int, Kinds]] = field(default_factory=dict)
    holes: dict[int, Flags] = field(default_factory=dict)
    digest: RangeDigest = field(default_factory=RangeDigest)

    def note_holes(self, first: int, holes: dict[int, Flags]) -> None:
        """Set the flags of windows from ``first`` on."""
        for guest, hollow in holes.items():
            known = self.holes.setdefault(guest, np.zeros(len(self.equal), dtype=np.bool_))
            known[first : first + len(hollow)] = hollow

    def differences(self, failed: Container[int], first_unit: int) -> dict[int, Extents]:
        """Return the extents of each guest that differs and has not failed."""
        guests = sorted(guest for guest in self.kinds.keys() | self.holes.keys() if guest not in failed)
        nowhere = np.zeros(len(self.equal), dtype=np.bool_)
        there = self.equal.any(axis=1)
        found = {}
        for guest in guests:
            kinds, trimmed = self.kinds.get(guest, {}), self.holes.get(guest, nowhere) & there
            if kinds or np.count_nonzero(trimmed):
                found[guest] = join_windows(kinds, trimmed, self.equal, first_unit)
        return found


def replace_span(around: Kinds, kinds: Kinds, span: Span) -> Kinds:
    """Return ``kinds`` inside the span, ``around`` outside."""
    whole, units = around.copy(), span_units(span)
    whole[units] = kinds[units]
    return whole


def assume_data(equal: Kinds, there: Spans) -> None:
    """Assume that the template's spans are nonzero: at worst, a cluster of zeros is written as data."""
    for window, span in there.items():
        equal[window, span_units(span)] = Kind.SAME


def replaced_units(kinds: dict[int, Kinds], equal: Kinds) -> int:
    """Return the number of units, nonzero in ``equal``, in which a guest has other data."""
    if not kinds:
        return 0
    found = np.stack(list(kinds.values()))
    return int(np.count_nonzero((found == Kind.DATA) & (equal[list(kinds)] != Kind.SAME_ZERO)))


def join_windows(kinds: dict[int, Kinds], trimmed: Flags, equal: Kinds, first_unit: int) -> Extents:
    """Return the extents of a range; ``trimmed``: windows that differ because a guest has zeros there.

    All windows of an aligned 2 MiB, the maximum cluster size, are included if one differs: folding needs them.
    """
    differs = trimmed.copy()
    differs[list(kinds)] = True
    clusters = np.logical_or.reduceat(differs, np.arange(0, len(differs), _WINDOWS_IN_CLUSTER))
    whole = equal * np.repeat(clusters, _WINDOWS_IN_CLUSTER)[: len(differs), np.newaxis]
    whole[trimmed] >>= 1  # SAME becomes ZERO; all other units are SAME_ZERO and stay so
    for number, found in kinds.items():
        whole[number] = found
    return extents.from_kinds(whole.reshape(-1), first_unit)
