"""The result of scanning one range, and the results of all ranges, combined in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batchdiff.errors import ImageError
from batchdiff.extents import Extents, Kind, concatenate
from batchdiff.image.content_digest import combine_digests
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.plan.plan import Similarity
from batchdiff.planning.scan.compare import UNIT


@dataclass(slots=True)
class RangeResult:
    """The result of scanning one range, by guest number; guests without differences there are left out.

    ``template_units``: the count of the template's nonzero units. It does not depend on the guests in the job: if
    the template shares blocks, units that were read for a guest count like unread ones. ``replaced``: by guest,
    the count of these units in which it has other data.
    """

    number: int
    template_digest: bytes | None = None
    differences: dict[int, Extents] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)
    template_units: int = 0
    replaced: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Findings:
    """The combined results, by the names of guests.

    ``template_units``: by range, the count of the template's nonzero units; ``replaced``: by guest, the count of
    those, over all ranges, in which it has other data.

    ``covered``: by range, the guests whose results are known; a range without an entry was not scanned at all.
    ``located``: by a guest's path, its extents that are shared or unwritten, if it was mapped and these were kept.
    """

    sharing: bool
    digests: dict[int, bytes] = field(default_factory=dict)
    differences: dict[str, dict[int, Extents]] = field(default_factory=dict)
    failures: dict[str, ImageError] = field(default_factory=dict)
    covered: dict[int, frozenset[str]] = field(default_factory=dict)
    template_units: dict[int, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    located: dict[str, ExtentTable] = field(default_factory=dict)

    def add(self, result: RangeResult, names: Sequence[str | None]) -> None:
        """Add the result of one range, whose guest number N is called ``names[N]``.

        Only this method turns numbers into names. The result of a guest is left out if its name is None, which
        means that it is not planned now.
        """
        if result.template_digest is not None:
            self.digests[result.number] = result.template_digest
        self.template_units[result.number] = result.template_units
        for number, count in result.replaced.items():
            if (name := names[number]) is not None:
                self.replaced[name] = self.replaced.get(name, 0) + count
        for number, found in result.differences.items():
            if (name := names[number]) is not None:
                self.differences.setdefault(name, {})[result.number] = found
        for number, error in result.failures.items():
            if (name := names[number]) is not None:
                self.failures[name] = error

    def digest(self, virtual_size: int) -> str:
        """Return the template's digest; empty if it was not read in full, because it shares blocks."""
        return "" if self.sharing else combine_digests(virtual_size, self.digests)

    def units(self, name: str) -> Extents:
        """Return the extents of a guest in 4 KiB units."""
        found = self.differences.get(name, {})
        return concatenate([found[number] for number in sorted(found)])

    def compared(self, name: str) -> tuple[Extents, Similarity]:
        """Return the extents of a guest in 4 KiB units, and its similarity, counted in whole units.

        If the template shares blocks with other files, whatever may be data in it counts as data: not all of it
        was read.
        """
        units = self.units(name)
        cleared, data = units.units(Kind.ZERO), units.units(Kind.DATA)
        equal = sum(self.template_units.values()) - cleared - self.replaced.get(name, 0)
        return units, Similarity(equal * UNIT, (equal + data) * UNIT)

    def forget(self, name: str) -> None:
        """Free the memory of a guest's extents."""
        self.differences.pop(name, None)
