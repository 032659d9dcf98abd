"""The sample of one guest, and estimates from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from batchdiff.estimation.frame import Frame, ProbeClass
from batchdiff.estimation.imputed import Imputed, SampledClass, impute
from batchdiff.estimation.pricing import Pricing, folded
from batchdiff.estimation.probe_reader import ProbeContents
from batchdiff.extents import Kind
from batchdiff.sampling.interval import Interval, Probe, exactly, share_of, sum_of
from batchdiff.sampling.strata import Strata, doubled, first_strata

Indices = npt.NDArray[np.int64]

FIRST_PROBES = range(32, 128)
"""The bounds of :func:`first_probes`. With 128, the error hardly ever exceeds a tenth of the open bytes."""

_FIRST_OF_FLEET = 8192
"""The number of probes to read first from a fleet of 64 to 256 guests: the more guests, the fewer from each."""

_LEAST_OF_CLASS = 16


@dataclass(slots=True)
class ClassSample:
    """The sample of one class. An index is that of a probe among all probes of the class."""

    strata: Strata
    parts: list[tuple[Indices, ProbeContents]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of probes read."""
        return sum(len(indices) for indices, _ in self.parts)

    def pending(self) -> list[int]:
        """Return the indices of the drawn probes still to be read."""
        drawn = self.strata.drawn
        for indices, _ in self.parts:
            drawn = drawn[~np.isin(drawn, indices)]
        left: list[int] = drawn.tolist()
        return left

    def add(self, indices: list[int], contents: ProbeContents) -> None:
        """Record the contents of probes."""
        self.parts.append((np.array(indices, dtype=np.int64), contents))

    @property
    def contents(self) -> ProbeContents:
        """The contents of all probes read, sorted by offset; there must be at least one probe."""
        if len(self.parts) > 1:
            indices = np.concatenate([indices for indices, _ in self.parts])
            order = np.argsort(indices)
            joined = ProbeContents(
                *(
                    np.concatenate([getattr(each, part.name) for _, each in self.parts])[order]
                    for part in fields(ProbeContents)
                )
            )
            self.parts = [(indices[order], joined)]
        return self.parts[0][1]


def first_probes(guests: int) -> int:
    """Return the number of probes to read first from each guest that has many probes."""
    return min(max(_FIRST_OF_FLEET // max(guests, 1), FIRST_PROBES.start), FIRST_PROBES.stop)


class GuestSample:
    """The sample of one guest. ``allocated``: the bytes that the guest's own files take on disk."""

    def __init__(
        self, frame: Frame, pricing: Pricing, allocated: int, random: np.random.Generator, first: int
    ) -> None:
        """Draw about ``first`` probes of the open classes.

        These are ADDED and COMPARED, and CLEARED if ``pricing.stores_zeros``. If they have at most ``2 * first``
        probes together, all are drawn. If CLEARED is not open, all its probes are drawn, too, provided that they
        and those of the open classes together number at most ``2 * first``.
        """
        self.frame, self.pricing, self.allocated = frame, pricing, allocated
        self.classes: dict[ProbeClass, ClassSample] = {}
        self._random, self._read_before = random, 0
        also = [ProbeClass.CLEARED] if pricing.stores_zeros else []
        open_probes = {kind: frame.count(kind) for kind in (ProbeClass.ADDED, ProbeClass.COMPARED, *also)}
        total = sum(open_probes.values())
        for kind, count in open_probes.items():
            wanted = max(first * count // max(total, 1), _LEAST_OF_CLASS)
            self._draw(kind, count if total <= 2 * first else wanted)
        if not also and total + frame.count(ProbeClass.CLEARED) <= 2 * first:
            self.read_cleared()

    @property
    def is_complete(self) -> bool:
        """True if all probes of the sampled classes are drawn."""
        return all(each.strata.is_complete for each in self.classes.values())

    @property
    def leaves_cleared(self) -> bool:
        """True if there are CLEARED probes, and none is drawn."""
        return ProbeClass.CLEARED not in self.classes and self.frame.count(ProbeClass.CLEARED) > 0

    def read_cleared(self) -> None:
        """Draw all CLEARED probes: if the template has zeros there, too, the overlay needs no tables for them."""
        self._draw(ProbeClass.CLEARED, self.frame.count(ProbeClass.CLEARED))

    def pending(self) -> Iterator[tuple[ProbeClass, list[int]]]:
        """Yield each class with drawn probes still to be read, and their indices."""
        for kind, sample in self.classes.items():
            if indices := sample.pending():
                yield kind, indices

    def price_by(self, pricing: Pricing) -> None:
        """Switch to another pricing; all drawn probes must then be read again."""
        self.pricing, self._read_before = pricing, self.read_bytes
        for sample in self.classes.values():
            sample.parts.clear()

    def double(self, kind: ProbeClass) -> None:
        """Draw about as many further probes of a class as before, or all that are left."""
        sample = self.classes[kind]
        sample.strata = doubled(sample.strata, self._random)

    def data_bytes(self) -> dict[ProbeClass, Interval]:
        """Return, by class, the bytes that an overlay's data takes; without an overlay, those to be shared."""
        return {kind: self._sum(sample, sample.contents.prices) for kind, sample in self.classes.items()}

    def unshared_bytes(self) -> Interval:
        """Return the sum of ``data_bytes``, minus the bytes that the overlay will share."""
        found = {kind: sample.contents for kind, sample in self.classes.items()}
        return sum_of(self._sum(self.classes[kind], each.prices - each.shared) for kind, each in found.items())

    def tables(self, coverage: int) -> tuple[int, int]:
        """Return the least and the greatest possible number of L2 tables; each maps ``coverage`` bytes."""
        least, most = set[int](), set[int]()
        part = min(coverage, self.frame.probe_size)  # with very small clusters, a probe needs several tables
        for kind in (ProbeClass.ADDED, ProbeClass.COMPARED, ProbeClass.CLEARED):
            numbers, sample = self.frame.numbers(kind), self.classes.get(kind)
            if sample is not None:
                differs = folded(sample.contents.kinds, part) & Kind.ZERO != 0
                least |= _tables(self._offsets(numbers[sample.strata.drawn], part)[differs], coverage)
            if sample is None or not sample.strata.is_complete:
                most |= _tables(self._offsets(numbers, part).reshape(-1), coverage)
        return len(least), len(least | most)

    def imputed(self) -> Imputed:
        """Return the whole guest's content, as its sample suggests."""
        sampled = []
        for kind, sample in self.classes.items():
            found = sample.contents
            numbers = self.frame.numbers(kind)
            sampled.append(SampledClass(numbers, sample.strata.sizes, found.kinds, found.lengths))
        return impute(self.frame, sampled)

    @property
    def probes(self) -> int:
        """The number of probes read with the present pricing."""
        return sum(each.count for each in self.classes.values())

    @property
    def read_bytes(self) -> int:
        """The bytes read from guest and template, including those for earlier pricings."""
        parts = [contents for each in self.classes.values() for _, contents in each.parts]
        return self._read_before + sum(int(contents.read.sum()) for contents in parts)

    @property
    def bytes_left(self) -> int:
        """The maximum number of bytes to read to complete the sampled classes."""
        left = {kind: each.strata.population - each.count for kind, each in self.classes.items()}
        return sum(bytes_to_read(kind, count, self.frame) for kind, count in left.items())

    def _draw(self, kind: ProbeClass, wanted: int) -> None:
        if count := self.frame.count(kind):
            self.classes[kind] = ClassSample(first_strata(count, wanted, self._random))

    def _offsets(self, numbers: Indices, part: int) -> Indices:
        """Return the offsets of the parts of probes, a row for each probe."""
        size = self.frame.probe_size
        offsets: Indices = numbers[:, np.newaxis] * size + np.arange(0, size, part)
        return offsets

    def _sum(self, sample: ClassSample, prices: npt.NDArray[np.int64]) -> Interval:
        """Extrapolate from the prices of the probes that were read to the whole class."""
        if sample.strata.is_complete:
            return exactly(float(prices.sum()))
        most, population = self.frame.probe_size, sample.strata.population
        pairs = zip(sample.strata.sizes.tolist(), prices.tolist(), strict=True)
        probes = [Probe(size * price / most, size) for size, price in pairs]
        return share_of(probes, population=population).times(population * most)


def bytes_to_read(kind: ProbeClass, count: int, frame: Frame) -> int:
    """Return the maximum number of bytes to read for ``count`` probes; only COMPARED ones need both images."""
    return count * frame.probe_size * (2 if kind is ProbeClass.COMPARED else 1)


def _tables(offsets: npt.NDArray[np.int64], coverage: int) -> set[int]:
    """Return the numbers of the L2 tables that map these ascending offsets."""
    numbers = offsets // coverage
    return set(numbers[np.concatenate([[True], numbers[1:] != numbers[:-1]])].tolist()) if len(numbers) else set()
