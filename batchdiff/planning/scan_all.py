"""The scan of all ranges by the process pool, except those whose results a checkpoint has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from batchdiff.errors import ImageError
from batchdiff.image.files import settle_reads
from batchdiff.image.image import Image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.resume import binding_of, key_of, left, take_over
from batchdiff.planning.scan.common_blocks import CommonBlocks
from batchdiff.planning.scan.one_range import RANGE, RangeResult, ScanJob, Scanner
from batchdiff.planning.scan.reopening import Budget, batches, files_of, reopened
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.units import format_size

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total bytes, counted over all images."""


@dataclass(frozen=True, slots=True)
class Course:
    """The settings of a scan: limits of processes and files, receivers of progress and notices, checkpoint."""

    budget: Budget
    generator: str
    progress: Progress
    say: Callable[[str], None]
    checkpoint: Checkpoint | None


def scanned(
    template: Image, record: PlannedImage, candidates: list[Candidate], course: Course, *, sharing: bool
) -> Findings:
    """Scan all ranges, except for results that a checkpoint has, and return the combined findings.

    :raises ImageError: the template cannot be read.
    :raises WorkerError: a worker process died.
    """
    findings = Findings(sharing)
    keys = tuple(key_of(candidate.record) for candidate in candidates)
    binding = binding_of(record, sharing=sharing, generator=course.generator)
    checkpoint = course.checkpoint if binding else None
    if checkpoint is not None:
        take_over(findings, checkpoint.load(binding), keys)
    common = CommonBlocks(template) if sharing else None
    ranges = _ranges(template, candidates, findings, common)
    # Ranges that the checkpoint does not cover, in batches of guests that fit the limit of open files.
    groups = left(ranges, findings.covered, len(candidates))
    jobs, files = course.budget
    parts = list(_parts(groups, [len(candidate.record.paths) for candidate in candidates], files))
    sizes = [record.virtual_size, *(candidate.record.virtual_size for candidate in candidates)]
    meter = _Meter(sizes, ranges, groups, parts, course.progress)
    if meter.done:
        course.say(
            f"Resuming an interrupted scan: {format_size(meter.done)} of {format_size(meter.total)} are already"
            " done."
        )
    course.progress(meter.done, meter.total)
    for guests, numbers in parts:
        records = tuple(candidates[guest].record for guest in guests)
        runs = tuple(common.runs.get(guest) for guest in guests) if common else ()
        job = ScanJob(record.source, files_of(template), records, sharing=sharing, shared=runs)
        if checkpoint is not None:
            checkpoint.begin(tuple(keys[guest] for guest in guests))
        for result in _results(job, numbers, jobs):
            findings.add(result, guests)
            if checkpoint is not None:
                checkpoint.add(result)
            meter.count(result.number, guests)
    return findings


def _ranges(
    template: Image, candidates: list[Candidate], findings: Findings, common: CommonBlocks | None
) -> list[int]:
    """Return the numbers of the ranges to scan, ascending, and record guests that cannot be read as failures.

    ``common`` maps each guest while it is open.
    """
    found = set(ranges_with_data(template))
    for number, candidate in enumerate(candidates):
        try:
            with reopened(candidate.record) as image:
                found.update(ranges_with_data(image))
                if common is not None:
                    common.add(number, image)
        except ImageError as error:
            findings.failures[number] = error
    if common is not None:
        common.confirm()
        findings.located = common.located
    return sorted(found)


def ranges_with_data(image: Image) -> Iterator[int]:
    """Yield the numbers of the ranges in which an image may have data, ascending."""
    at = 0
    while (found := image.next_data(at)) is not None:
        number = found // RANGE
        yield number
        at = (number + 1) * RANGE


_Part = tuple[tuple[int, ...], list[int]]
"""Guests that are scanned together, and the ranges to scan for them."""


def _parts(groups: dict[tuple[int, ...], list[int]], files: list[int], most: int) -> Iterator[_Part]:
    for guests, numbers in groups.items():
        yield from ((batch, numbers) for batch in batches(guests, files, most))


def _results(job: ScanJob, numbers: list[int], jobs: int) -> Iterator[RangeResult]:
    with ExitStack() as ours:  # with one job the scanner is in this process; a worker's ends with it

        def start() -> Callable[[int], RangeResult]:
            scanner = Scanner(job)
            ours.callback(scanner.close)

            def scan(number: int) -> RangeResult:
                result = scanner.scan(number)
                settle_reads()
                return result

            return scan

        yield from run_tasks(start, iter(numbers), jobs=min(jobs, max(len(numbers), 1)), describe=_named)


class _Meter:
    """A count of the bytes scanned; results from a checkpoint count as done.

    ``groups``: the ranges to scan, by guests; ``parts``: the same, divided into batches of guests.
    """

    def __init__(
        self,
        sizes: list[int],
        ranges: list[int],
        groups: dict[tuple[int, ...], list[int]],
        parts: list[_Part],
        progress: Progress,
    ) -> None:
        self._sizes = sizes
        self._progress = progress
        everyone = tuple(range(len(sizes) - 1))
        whole = sum(self._bytes_of(number, everyone) for number in ranges)
        self.done = max(whole - self._bytes_in(groups.items()), 0)
        self.total = self.done + self._bytes_in(parts)

    def count(self, number: int, guests: tuple[int, ...]) -> None:
        """Count a range as done for these guests."""
        self.done += self._bytes_of(number, guests)
        self._progress(self.done, self.total)

    def _bytes_in(self, parts: Iterable[_Part]) -> int:
        return sum(self._bytes_of(number, guests) for guests, numbers in parts for number in numbers)

    def _bytes_of(self, number: int, guests: tuple[int, ...]) -> int:
        """Return the bytes of a range in the template and these guests."""
        sizes = [self._sizes[0], *(self._sizes[guest + 1] for guest in guests)]
        return sum(min(max(size - number * RANGE, 0), RANGE) for size in sizes)


def _named(number: int) -> str:
    start = number * RANGE
    return (
        f"scanning bytes {start} to {start + RANGE} (from {format_size(start)} on) of the template and its guests"
    )
