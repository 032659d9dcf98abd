"""The differences of a guest in 4 KiB units, read again only where an older plan found any.

::

    granules of the older plan   |  data  |        |  zero  |  data  |        what is in between is equal
    compared, up to a window     |........|        |.................|
    units that differ              ..  .            .......     .
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from batchdiff.extents import Extents, concatenate, from_kinds
from batchdiff.image.image import Image
from batchdiff.planning.scan.compare import UNIT, WINDOW, WindowBuffer, kinds_of, kinds_of_equal
from batchdiff.units import KIB, align_up

_GAP = 64 * KIB
"""Equal bytes between two granules that are read, too: that takes less time than another call."""


def refine_granules(template: Image, guest: Image, granules: Extents, granule: int) -> Extents:
    """Return the extents of a guest in units of 4 KiB, within granules of ``granule`` bytes with all differences.

    :raises ImageError: an image cannot be read.
    """
    ours, theirs = WindowBuffer(), WindowBuffer()
    found = []
    for start, end in _pieces(granules, granule, align_up(guest.virtual_size, UNIT)):
        first, last = start % WINDOW, (end - 1) % WINDOW + 1
        for image, buffer in ((template, ours), (guest, theirs)):
            image.fill(buffer.take(first, last), start, image.segments(start, end))
        kinds = kinds_of(ours, theirs, kinds_of_equal(ours))
        if kinds is not None:
            found.append(from_kinds(kinds[first // UNIT : last // UNIT], start // UNIT))
    return concatenate(found)


def _pieces(granules: Extents, granule: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the starts and ends of granules in whole units, joined over small gaps, and cut to windows."""
    starts = granules.first * granule // UNIT * UNIT
    ends = np.minimum(-(-granules.end * granule // UNIT) * UNIT, size)
    apart = starts[1:] > ends[:-1] + _GAP
    begins = starts[np.concatenate([[True], apart])] if len(starts) else starts
    stops = ends[np.concatenate([apart, [True]])] if len(ends) else ends
    for start, end in zip(begins.tolist(), stops.tolist(), strict=True):
        for at in range(start - start % WINDOW, end, WINDOW):
            yield max(at, start), min(at + WINDOW, end)
