"""The scan of all ranges by worker processes, except those whose results are in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from batchdiff.errors import ImageError
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.resume import binding_of, key_of, ranges_left, take_over
from batchdiff.planning.scan.common_blocks import CommonBlocks
from batchdiff.planning.scan.exports import exports, files_to_open, is_exported
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.reopening import Budget, batches, files_of, reopen
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.scan.scan_job import ScanJob
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.progress import ignore
from batchdiff.units import format_size

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total bytes, counted over all images."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """The settings of a scan: limits of processes and files, receivers of progress and notices, checkpoint.

    ``observer`` is called at every read of an image; ``opened``, with the number of guests whose data was located.
    """

    budget: Budget
    generator: str
    progress: Progress
    say: Callable[[str], None]
    checkpoint: Checkpoint | None
    observer: ReadObserver | None = None
    opened: Callable[[int], None] = ignore


def scan_guests(
    template: Image,
    record: PlannedImage,
    guests: Mapping[str, PlannedImage],
    settings: ScanSettings,
    *,
    sharing: bool,
) -> Findings:
    """Scan all ranges whose results are not in a checkpoint, and return the combined findings.

    ``record``: the template as the plan records it; ``guests``: the guests as the plan records them, by name.

    :raises ImageError: the template cannot be read.
    :raises WorkerError: a worker process died.
    """
    findings = Findings(sharing)
    keys = {name: key_of(image) for name, image in guests.items()}
    binding = binding_of(record, sharing=sharing, generator=settings.generator)
    checkpoint = settings.checkpoint if binding else None
    if checkpoint is not None:
        take_over(findings, checkpoint.load(binding), keys)
    common = CommonBlocks(template) if sharing else None
    ranges, exported = _ranges(template, guests, findings, common, settings)
    # Ranges that the checkpoint does not cover, in batches of guests that stay within the limit on open files.
    groups = ranges_left(ranges, findings.covered, list(guests))
    jobs, most = settings.budget
    files = files_to_open(guests, exported, most)
    parts = [(batch, numbers) for names, numbers in groups.items() for batch in batches(names, files, most)]
    meter = _Meter(record.virtual_size, guests, settings.progress)
    meter.begin(ranges, groups, parts)
    if meter.done:
        settings.say(meter.resumed())
    settings.progress(meter.done, meter.total)
    job = ScanJob(record.source, files_of(template), sharing=sharing, observer=settings.observer)
    for names, numbers in parts:
        shared = tuple(common.runs.get(name) for name in names) if common else ()
        job = replace(job, guests=tuple(guests[name] for name in names), shared=shared)
        if checkpoint is not None:
            checkpoint.begin(tuple(keys[name] for name in names))
        with exports(template, [guests[name] for name in names if name in exported], settings.observer):
            for result in run_tasks(job, numbers, workers=min(jobs, max(len(numbers), 1))):
                findings.add(result, names)
                if checkpoint is not None:
                    checkpoint.add(result)
                meter.count(result.number, names)
    return findings


def _ranges(
    template: Image,
    guests: Mapping[str, PlannedImage],
    findings: Findings,
    common: CommonBlocks | None,
    settings: ScanSettings,
) -> tuple[list[int], set[str]]:
    """Return the numbers of the ranges to scan, ascending, and the guests that QEMU exports.

    Guests that cannot be read are recorded as failures. ``common`` maps each guest while it is open.
    """
    exported = set()
    found = set(ranges_with_data(template))
    for number, (name, record) in enumerate(guests.items()):
        settings.opened(number)
        try:
            with reopen(record, settings.observer) as image:
                found.update(ranges_with_data(image))
                if is_exported(image):
                    exported.add(name)
                if common is not None:
                    common.add(name, image)
        except ImageError as error:
            findings.failures[name] = error
    if common is not None:
        common.confirm()
        findings.located = common.located
    return sorted(found), exported


def ranges_with_data(image: Image) -> Iterator[int]:
    """Yield the numbers of the ranges in which an image may have data, ascending."""
    at = 0
    while (found := image.next_data(at)) is not None:
        number = found // RANGE
        yield number
        at = (number + 1) * RANGE


_Part = tuple[tuple[str, ...], list[int]]
"""Guests that are scanned together, and the ranges to scan for them."""


class _Meter:
    """A count of the bytes scanned; results from a checkpoint count as done."""

    def __init__(self, template_size: int, guests: Mapping[str, PlannedImage], progress: Progress) -> None:
        self._template_size = template_size
        self._sizes = {name: image.virtual_size for name, image in guests.items()}
        self._progress = progress
        self.done = self.total = 0

    def begin(self, ranges: list[int], groups: dict[tuple[str, ...], list[int]], parts: list[_Part]) -> None:
        """Set the total. ``groups``: the ranges to scan, by guests; ``parts``: the same, in batches of guests."""
        whole = self._bytes_in([(tuple(self._sizes), ranges)])
        self.done = max(whole - self._bytes_in(groups.items()), 0)
        self.total = self.done + self._bytes_in(parts)

    def resumed(self) -> str:
        """Return the notice that a scan is resumed."""
        done, total = format_size(self.done), format_size(self.total)
        return f"Resuming an interrupted scan: {done} of {total} are already done."

    def count(self, number: int, names: tuple[str, ...]) -> None:
        """Count a range as done for these guests."""
        self.done += self._bytes_of(number, names)
        self._progress(self.done, self.total)

    def _bytes_in(self, parts: Iterable[_Part]) -> int:
        return sum(self._bytes_of(number, names) for names, numbers in parts for number in numbers)

    def _bytes_of(self, number: int, names: tuple[str, ...]) -> int:
        """Return the bytes of a range in the template and these guests."""
        sizes = [self._template_size, *(self._sizes[name] for name in names)]
        return sum(min(max(size - number * RANGE, 0), RANGE) for size in sizes)
