"""The space that a guest gives back if it shares blocks in place with the template.

::

    units of a scan      |differs| equal ............... |differs| equal ..... |
    guest's data         | data .................| hole ....| data ............|
    equal data           |       |...............|                  |..........|
    minus what is already shared with the template -> the runs in the plan

If both images are raw, what is already shared is usually subtracted exactly. Otherwise, the plan has all equal
runs of each stretch of 64 MiB in which anything is left to share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from batchdiff.extents import Extents, Kind, from_pairs, from_runs
from batchdiff.image.image import Image
from batchdiff.image.storage.raw_shareable import RawShareable, TemplateBlocks, raw_shareable
from batchdiff.image.storage.shareable import ShareableRange, SharedStretch, shareable_stretches
from batchdiff.image.storage.shared_blocks import BlockRuns
from batchdiff.image.storage.sharing_gain import raw_sharing_gain, sharing_gain
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.plan.extents import runs_of
from batchdiff.plan.plan import Sharing
from batchdiff.plan.runs import Runs
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.units import ceil_div


def survey_sharing(
    template: TemplateBlocks, guest: Image, units: Extents, known: ExtentTable | None, allocated: int
) -> Sharing:
    """Return the space that a guest gives back if it shares the blocks that equal the template's.

    ``units``: the guest's extents, in units of 4 KiB. ``known``: the result of
    :func:`~batchdiff.image.storage.shared_blocks.raw_extents`, if the guest was mapped before. ``allocated``: the
    bytes that the guest takes on disk now.

    :raises ImageError, OSError: a table or the filesystem cannot be read.
    """
    equal = equal_runs(units, min(guest.virtual_size, template.image.virtual_size))
    raw = raw_shareable(template, guest, equal, known)
    if raw is not None:
        gain, unfit, runs = raw_sharing_gain(guest, *raw), 0, _units_of(raw)
        shareable = int((raw.ends - raw.starts).sum())
    else:
        survey = _Survey()
        ranges = zip(*(each.tolist() for each in equal), strict=True)
        stretches = shareable_stretches(template.image, guest, stretches_with_data(guest, ranges))
        gain = sharing_gain(guest, survey.ranges(stretches))
        shareable, unfit, runs = survey.shareable, survey.unfit, survey.runs
    return Sharing(
        allocated_bytes=allocated,
        shareable_bytes=shareable,
        saved_bytes=gain.freed,
        left_out_bytes=unfit,
        exactness=gain.exactness,
        note=gain.note,
        unit=UNIT,
        runs=runs,
    )


def equal_runs(units: Extents, size: int) -> BlockRuns:
    """Return the starts and ends, in bytes, of the runs before ``size`` in which no unit differs."""
    differ = (units.kind == Kind.DATA) | (units.kind == Kind.ZERO)
    starts = np.concatenate([[0], units.end[differ] * UNIT])
    ends = np.minimum(np.concatenate([units.first[differ] * UNIT, [size]]), size)
    kept = starts < ends
    return starts[kept], ends[kept]


def _units_of(raw: RawShareable) -> Runs:
    first = raw.starts // UNIT
    table = np.stack([first, -(-raw.ends // UNIT) - first], axis=1)
    return runs_of(from_pairs(table, table[:0]))[0]


def stretches_with_data(guest: Image, ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of ascending ranges that lie in stretches of 64 MiB in which a guest may have data."""
    first = last = 0  # the stretch with the next data
    for start, end in ranges:
        at = start
        while at < end:
            if at >= last:
                found = guest.next_data(at)
                if found is None:
                    return
                first, last = found // RANGE * RANGE, (found // RANGE + 1) * RANGE
            at = max(at, first)
            if at < end:
                yield at, min(end, last)
            at = max(at, last)


@dataclass(slots=True)
class _Survey:
    shareable: int = 0
    unfit: int = 0
    _found: list[tuple[int, int, int]] = field(default_factory=list)

    def ranges(self, stretches: Iterator[SharedStretch]) -> Iterator[ShareableRange]:
        """Yield the shareable ranges, and include each stretch in the sums."""
        for stretch in stretches:
            self.unfit += stretch.unfit
            self.shareable += sum(each.length for each in stretch.ranges)
            if stretch.ranges:
                self._found += [
                    (start // UNIT, ceil_div(end - start, UNIT), Kind.DATA) for start, end in stretch.equal
                ]
            yield from stretch.ranges

    @property
    def runs(self) -> Runs:
        return runs_of(from_runs(self._found))[0]
