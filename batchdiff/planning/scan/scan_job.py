"""The job of scanning ranges: the images as values, which each worker opens for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batchdiff.errors import ImageError
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver, read_sequentially, settle
from batchdiff.image.image import Image
from batchdiff.image.storage.shared_blocks import BlockRuns
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.one_range import RANGE, Scanner
from batchdiff.planning.scan.range_progress import RangeProgress
from batchdiff.planning.scan.reopening import Files, open_same_files, reopen
from batchdiff.planning.scan.results import RangeResult
from batchdiff.units import format_size


@frozen
class ScanJob:
    """A template and the guests to compare with it, as they were when first opened.

    An error in ``guests`` replaces a guest that is not opened. ``sharing``: whether the template shares blocks
    with other files. ``shared``: for each guest, its bytes in the template's blocks at the same offset, or None if
    workers have to find them.
    """

    template: ImageSource
    files: Files
    guests: tuple[PlannedImage | ImageError, ...] = ()
    sharing: bool = False
    shared: tuple[BlockRuns | None, ...] = ()
    observer: ReadObserver | None = None
    progress: RangeProgress | None = None

    def open(self) -> Scanner:
        """Open all images; a guest that cannot be opened is a failure in all results.

        :raises ImageError: the template cannot be opened, or now consists of different files.
        """
        template = _read_ahead(open_same_files(self.template, self.files, self.observer))
        guests: list[Image | ImageError] = []
        for record in self.guests:
            if isinstance(record, ImageError):
                guests.append(record)
                continue
            try:
                guests.append(_read_ahead(reopen(record, self.observer)))
            except ImageError as error:
                guests.append(error)
        return Scanner(template, guests, sharing=self.sharing, shared=self.shared, progress=self.progress)

    @contextmanager
    def begin(self) -> Iterator[Callable[[int], RangeResult]]:
        """Open all images, and yield the function that scans a range.

        :raises ImageError: the template cannot be opened, or now consists of different files.
        """
        scanner = self.open()

        def scan(number: int) -> RangeResult:
            result = scanner.scan(number)
            settle(self.observer)
            return result

        try:
            yield scan
        finally:
            scanner.close()

    def describe(self, number: int) -> str:
        """Describe a task, for messages."""
        start = number * RANGE
        return (
            f"scanning bytes {start} to {start + RANGE} (starting at {format_size(start)}) of the template and its"
            " guests"
        )


def _read_ahead(image: Image) -> Image:
    for layer in image.layers:
        read_sequentially(layer.fd)
    return image
