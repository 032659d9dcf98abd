"""What gathers while a range is scanned, by window, and the extents of a guest that follow from it; pure.

::

    window                    |  0  |  1  |  2  |  3  |
    template                  |#### |## ##|  ###|     |
    guest 1                   |####*| hole| hole|     |    1 and 2: what any guest with a hole there is (cleared)
    guest 2                   | hole| hole|#  ##| *   |    2 and 3: what this one is (kinds)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from batchdiff.extents import Extents, Kind, from_kinds
from batchdiff.image.digest import RangeDigest
from batchdiff.planning.compare import WINDOW, Flags, Kinds, kinds_of_zeros
from batchdiff.units import MIB

_WINDOWS_IN_CLUSTER = 2 * MIB // WINDOW
"""Windows in the largest cluster."""


@dataclass(slots=True)
class RangeFindings:
    """What the windows of a range have shown so far.

    ``equal``: by window, the kinds of a guest that equals the template there; ``kinds``: those of a guest that
    does not; ``cleared``: those of all guests that have a hole there, which ``clears`` something. ``holes``: by
    guest, the windows that are holes.
    """

    equal: Kinds
    cleared: Kinds = field(init=False)
    clears: Flags = field(init=False)
    kinds: dict[int, dict[int, Kinds]] = field(default_factory=dict)
    holes: dict[int, Flags] = field(default_factory=dict)
    digest: RangeDigest = field(default_factory=RangeDigest)

    def __post_init__(self) -> None:
        self.cleared = np.zeros_like(self.equal)
        self.clears = np.zeros(len(self.equal), dtype=np.bool_)

    def note_cleared(self, number: int, equal: Kinds) -> None:
        """Notes what a hole is in a window in which a guest like the template is ``equal``."""
        found = kinds_of_zeros(equal)
        if found is not None:
            self.cleared[number], self.clears[number] = found, True

    def note_holes(self, guest: int, first: int, hollow: Flags) -> None:
        """Notes which windows, from number ``first`` on, are holes of a guest."""
        if guest not in self.holes:
            self.holes[guest] = np.zeros(len(self.equal), dtype=np.bool_)
        self.holes[guest][first : first + len(hollow)] = hollow

    def extents(self, guest: int, first_unit: int) -> Extents | None:
        """The extents of a guest in the range that begins with that unit; None where it equals the template.

        A window without differences is needed if it shares a largest cluster with one that has some.
        """
        kinds, hollow = self.kinds.get(guest, {}), self.holes.get(guest)
        cleared = self.clears & hollow if hollow is not None else np.zeros(len(self.equal), dtype=np.bool_)
        differs = cleared.copy()
        differs[list(kinds)] = True
        if not np.count_nonzero(differs):
            return None
        clusters = np.logical_or.reduceat(differs, np.arange(0, len(differs), _WINDOWS_IN_CLUSTER))
        whole = self.equal * np.repeat(clusters, _WINDOWS_IN_CLUSTER)[: len(differs), np.newaxis]
        whole[cleared] = self.cleared[cleared]
        for number, found in kinds.items():
            whole[number] = found
        return from_kinds(whole.reshape(-1), first_unit)

    def replaced(self, guest: int) -> int:
        """How many units of the template that are not zeros a guest has other data in; a hole is no data."""
        kinds = self.kinds.get(guest)
        if not kinds:
            return 0
        found = np.stack(list(kinds.values()))
        return int(np.count_nonzero((found == Kind.DATA) & (self.equal[list(kinds)] != Kind.SAME_ZERO)))
