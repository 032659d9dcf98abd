"""The differences of a guest in 4 KiB units, read again only where an older plan found any.

::

    granules of the older plan   |  data  |        |  zero  |  data  |        all else is equal
    compared, window by window   |........|        |.................|
    units that differ              ..  .            .......     .
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from batchdiff.errors import ImageError
from batchdiff.extents import Extents, concatenate, empty, extents_between, from_kinds, numbers
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver, settle
from batchdiff.image.image import Image
from batchdiff.image.storage.sharing_obstacle import obstacle_to_sharing
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.compare import UNIT, WINDOW, WindowBuffer, kinds_of, kinds_of_equal
from batchdiff.planning.scan.reopening import Files, open_same_files, reopen
from batchdiff.units import GIB, KIB, align_up, format_size

STRETCH = GIB
"""Bytes of a task: few enough to show progress, and to divide a large guest among workers."""

_GAP = 64 * KIB
"""Gaps of up to this many bytes are read, too: that is faster than another call."""


class Granules(NamedTuple):
    """Extents in an older plan, which cover all differences of a guest, in granules of ``size`` bytes."""

    extents: Extents
    size: int

    def within(self, stretch: int) -> Extents:
        """Return the part in a stretch of the disk."""
        per_stretch = STRETCH // self.size
        return extents_between(self.extents, stretch * per_stretch, (stretch + 1) * per_stretch)


class StretchResult(NamedTuple):
    """The extents of a stretch in units of 4 KiB, or why reading failed."""

    name: str
    stretch: int
    units: Extents
    failure: ImageError | None = None


@frozen
class RefineJob:
    """Guests whose differences are read again if the guests can share blocks with the template.

    ``files``: the template's files when it was first opened.
    """

    template: ImageSource
    files: Files
    guests: Mapping[str, PlannedImage]
    granules: Mapping[str, Granules]
    observer: ReadObserver | None = None

    def tasks(self) -> list[tuple[str, int]]:
        """Return a task for each stretch in which a guest has granules."""
        return [
            (name, stretch)
            for name, granules in self.granules.items()
            for stretch in numbers(granules.extents, STRETCH // granules.size).tolist()
        ]

    def bytes_of(self, name: str, stretch: int) -> int:
        """Return the bytes of a task's granules in both images."""
        granules = self.granules[name]
        return 2 * granules.size * int(granules.within(stretch).count.sum())

    @contextmanager
    def begin(self) -> Iterator[Callable[[tuple[str, int]], StretchResult]]:
        """Open the template, and yield the function that does a task.

        :raises ImageError: the template cannot be opened, or now consists of different files.
        """
        with open_same_files(self.template, self.files, self.observer) as template:
            yield partial(self._refine, template)

    def describe(self, task: tuple[str, int]) -> str:
        """Describe a task, for messages."""
        name, stretch = task
        return f"rereading the differences of guest {name} from {format_size(stretch * STRETCH)} on"

    def _refine(self, template: Image, task: tuple[str, int]) -> StretchResult:
        name, stretch = task
        granules, units = self.granules[name], empty()
        try:
            with reopen(self.guests[name], self.observer) as guest:
                if obstacle_to_sharing(template, guest) is None:
                    units = refine_granules(template, guest, granules.within(stretch), granules.size)
        except ImageError as error:
            return StretchResult(name, stretch, units, error)
        settle(self.observer)
        return StretchResult(name, stretch, units)


def refine_granules(template: Image, guest: Image, granules: Extents, granule: int) -> Extents:
    """Compare granules of ``granule`` bytes; return the guest's extents there in units of 4 KiB.

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
    """Yield the byte ranges of granules, in whole units, joined across small gaps and cut at window boundaries."""
    starts = granules.first * granule // UNIT * UNIT
    ends = np.minimum(-(-granules.end * granule // UNIT) * UNIT, size)
    apart = starts[1:] > ends[:-1] + _GAP
    begins = starts[np.concatenate([[True], apart])] if len(starts) else starts
    stops = ends[np.concatenate([apart, [True]])] if len(ends) else ends
    for start, end in zip(begins.tolist(), stops.tolist(), strict=True):
        for at in range(start - start % WINDOW, end, WINDOW):
            yield max(at, start), min(at + WINDOW, end)
