"""The result of scanning one range, and the combined results."""

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
    """The result of scanning one range, by guest number.

    ``template_units``: how many of the template's units are nonzero or, if it shares blocks, may be: the number
    must not depend on which of them were read for the guests of a job. ``replaced``: in how many of these units a
    guest has other data.
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

    ``covered``: by range, the guests with valid results in a checkpoint. ``located``: by a guest's path, its
    shared or unwritten extents, if kept. ``template_units``, by range, and ``replaced``, over all ranges: see
    :class:`RangeResult`.
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
        """Add the result of one range; leave out guests whose name is None."""
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
        """Return the template's digest; empty if the template shares blocks."""
        return "" if self.sharing else combine_digests(virtual_size, self.digests)

    def units(self, name: str) -> Extents:
        """Return a guest's extents in 4 KiB units."""
        found = self.differences.get(name, {})
        return concatenate([found[number] for number in sorted(found)])

    def compared(self, name: str) -> tuple[Extents, Similarity]:
        """Return a guest's extents in 4 KiB units, and its similarity, counted in whole units."""
        units = self.units(name)
        cleared, data = units.units(Kind.ZERO), units.units(Kind.DATA)
        equal = sum(self.template_units.values()) - cleared - self.replaced.get(name, 0)
        return units, Similarity(equal * UNIT, (equal + data) * UNIT)

    def forget(self, name: str) -> None:
        """Free the memory of a guest's extents."""
        self.differences.pop(name, None)
