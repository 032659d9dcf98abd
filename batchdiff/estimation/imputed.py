"""The imputed differences of a whole guest: each probe is assumed to be like the one that was read in its stratum.

::

    strata    |      a       |      b       |      c       |
    read         x               x                x
    imputed   |a a a a a a a |b b b b b b b |c c c c c c c |      and metadata settles all other probes

So the planner's own code can predict the overlay's size, whatever its format and options.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.estimation.frame import Frame, ProbeClass
from batchdiff.estimation.pricing import KindsOfProbes, folded
from batchdiff.extents import Extents, Kind, concatenate, from_kinds
from batchdiff.frozen import frozen
from batchdiff.plan.plan import Similarity
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes.compressed_estimate import Sample

_AT_ONCE = 1 << 24
"""Units to expand at a time: their kinds take a byte each."""


class SampledClass(NamedTuple):
    """The sample of one class.

    ``numbers``: all its probes, ascending; ``sizes``: how many probes each probe that was read
    stands for; ``kinds``, ``lengths``: as in :class:`~batchdiff.estimation.probe_reader.ProbeContents`.
    """

    numbers: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    kinds: KindsOfProbes
    lengths: npt.NDArray[np.int32]


@frozen(eq=False)
class Imputed:
    """The imputed content of a guest.

    ``table``, ``lengths``: a row for each class in ``SETTLED_ROWS``, then one for each probe that was read;
    ``rows``: for each probe of the guest, its row in both.
    """

    table: KindsOfProbes
    lengths: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]

    @property
    def similarity(self) -> Similarity:
        """The guest's similarity to the template."""
        count = np.bincount(self.rows, minlength=len(self.table))
        equal = int(count @ np.count_nonzero(self.table == Kind.SAME, axis=1)) * UNIT
        data = int(count @ np.count_nonzero(self.table == Kind.DATA, axis=1)) * UNIT
        return Similarity(equal, equal + data)

    def extents(self, resolution: int) -> Extents:
        """Return the extents in units of 4 KiB; each part of ``resolution`` bytes has one kind."""
        table, factor = folded(self.table, resolution), resolution // UNIT
        width = table.shape[1]
        step = max(_AT_ONCE // width, 1)
        parts = [
            from_kinds(table[self.rows[first : first + step]].reshape(-1), first * width)
            for first in range(0, len(self.rows), step)
        ]
        found = concatenate(parts)
        return Extents(found.first * factor, found.count * factor, found.kind)

    def compressed_lengths(self, samples: list[Sample]) -> list[list[int]]:
        """Return the imputed compressed sizes of clusters, as a ``Measure`` does, but compress nothing."""
        of_probe = self.lengths.shape[1]
        return [
            [int(self.lengths[self.rows[cluster // of_probe], cluster % of_probe]) for cluster in sample.clusters]
            for sample in samples
        ]


SETTLED_ROWS = {ProbeClass.ZEROS: Kind.SAME_ZERO, ProbeClass.SHARED: Kind.SAME, ProbeClass.CLEARED: Kind.ZERO}
"""The first rows of a table: the kind imputed to each class, unless it is sampled, as CLEARED may be."""


def impute(frame: Frame, sampled: Iterable[SampledClass]) -> Imputed:
    """Impute the content of a guest from the samples of its classes."""
    width = frame.probe_size // UNIT
    tables = [np.full((1, width), kind, dtype=np.uint8) for kind in SETTLED_ROWS.values()]
    classes = frame.classes
    rows = np.zeros(len(classes), dtype=np.int32)
    for row, kind in enumerate(SETTLED_ROWS):
        rows[classes == kind] = row
    base = len(tables)
    parts = list(sampled)
    lengths = [np.zeros((base, parts[0].lengths.shape[1] if parts else 0), dtype=np.int32)]
    for part in parts:
        rows[part.numbers] = base + np.repeat(np.arange(len(part.sizes), dtype=np.int32), part.sizes)
        tables.append(part.kinds)
        lengths.append(part.lengths)
        base += len(part.kinds)
    return Imputed(np.concatenate(tables), np.concatenate(lengths), rows)
