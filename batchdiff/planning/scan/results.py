"""The results of all ranges' scans, combined in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batchdiff.errors import ImageError
from batchdiff.extents import Extents, Kind, concatenated
from batchdiff.image.content_digest import combined
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.plan.plan import Similarity
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.one_range import RangeResult


@dataclass(slots=True)
class Findings:
    """The combined results. Guests have the numbers of the candidates.

    ``template_units``: by range, the count of the template's nonzero units; ``replaced``: by guest, in how many of
    all these it has other data.

    ``covered``: by range, a number in which bit N is set if guest N's result is known; a range without an entry
    was not scanned at all. ``located``: by a guest's path, its extents on disk, if it was mapped.
    """

    sharing: bool
    digests: dict[int, bytes] = field(default_factory=dict)
    differences: dict[int, dict[int, Extents]] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)
    covered: dict[int, int] = field(default_factory=dict)
    template_units: dict[int, int] = field(default_factory=dict)
    replaced: dict[int, int] = field(default_factory=dict)
    located: dict[str, ExtentTable] = field(default_factory=dict)

    def add(self, result: RangeResult, numbers: Sequence[int]) -> None:
        """Add the result of one range, in which guest N is the candidate ``numbers[N]``."""
        if result.template_digest is not None:
            self.digests[result.number] = result.template_digest
        self.template_units[result.number] = result.template_units
        for guest, count in result.replaced.items():
            self.replaced[numbers[guest]] = self.replaced.get(numbers[guest], 0) + count
        for guest, found in result.differences.items():
            self.differences.setdefault(numbers[guest], {})[result.number] = found
        for guest, error in result.failures.items():
            self.failures[numbers[guest]] = error

    def digest(self, virtual_size: int) -> str:
        """Return the template's digest; empty if it was not read in full because it shares blocks with guests."""
        return "" if self.sharing else combined(virtual_size, self.digests)

    def units(self, guest: int) -> Extents:
        """Return the extents of a guest in 4 KiB units."""
        found = self.differences.get(guest, {})
        return concatenated([found[number] for number in sorted(found)])

    def compared(self, guest: int) -> tuple[Extents, Similarity]:
        """Return the extents of a guest in 4 KiB units, and its similarity, counted in whole units.

        Blocks that the template shares with other files and that no guest needed were not read; they count as
        data.
        """
        units = self.units(guest)
        cleared, data = units.units(Kind.ZERO), units.units(Kind.DATA)
        equal = sum(self.template_units.values()) - cleared - self.replaced.get(guest, 0)
        return units, Similarity(equal * UNIT, (equal + data) * UNIT)

    def forget(self, guest: int) -> None:
        """Free the memory of a guest's extents."""
        self.differences.pop(guest, None)
