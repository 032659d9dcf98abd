"""The scan, here or on other hosts, of ranges that may have data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.errors import ImageError, UsageError
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.resume import binding_of, key_of, ranges_left, take_over
from batchdiff.planning.scan.common_blocks import CommonBlocks
from batchdiff.planning.scan.exports import exports, files_to_open, is_exported, is_read_natively
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.range_progress import RangeProgress
from batchdiff.planning.scan.reopening import Budget, batches, files_of, reopen
from batchdiff.planning.scan.results import Findings, RangeResult
from batchdiff.planning.scan.scan_job import ScanJob
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.progress import ignore
from batchdiff.units import format_size

if TYPE_CHECKING:  # it is needed only with --scheduler
    from batchdiff.planning.remote.remote_scan import RemoteScans

Progress = Callable[[int, int], None]
"""Called with the bytes done and the total, over all images."""


@frozen
class ScanSettings:
    """The settings of a scan.

    ``generator``: this version of batchdiff; only its checkpoints are used. ``opened`` is called before each
    guest is opened to locate its data, with the number of guests before it.
    """

    budget: Budget
    generator: str
    progress: Progress
    say: Callable[[str], None]
    checkpoint: Checkpoint | None
    observer: ReadObserver | None = None
    opened: Callable[[int], None] = ignore
    remote: RemoteScans | None = None

    def close(self) -> None:
        """Close the connection to other hosts, if any: while it has threads, this process must not fork."""
        if self.remote is not None:
            self.remote.close()


def scan_guests(
    template: Image,
    record: PlannedImage,
    guests: Mapping[str, PlannedImage],
    settings: ScanSettings,
    *,
    sharing: bool,
) -> Findings:
    """Scan what the checkpoint does not cover; return the findings of scan and checkpoint.

    ``sharing``: whether the template shares blocks with other files.

    :raises ImageError: the template cannot be read, or now consists of different files.
    :raises UsageError: other hosts are to scan a template that batchdiff reads through QEMU.
    :raises WorkerError: the scan could not be finished, here or on other hosts.
    """
    findings = Findings(sharing)
    keys = {name: key_of(image) for name, image in guests.items()}
    binding = binding_of(record, sharing=sharing, generator=settings.generator)
    checkpoint = settings.checkpoint if binding else None
    if checkpoint is not None:
        take_over(findings, checkpoint.load(binding), keys)
    common = CommonBlocks(template) if sharing else None
    _check_remote(template, settings.remote)
    ranges, kinds = _ranges(template, guests, findings, common, settings)
    groups = ranges_left(ranges, findings.covered, list(guests))
    parts = _parts(guests, groups, kinds, settings)
    meter = _Meter(record.virtual_size, guests, settings.progress)
    meter.begin(ranges, groups, parts)
    if meter.done:
        settings.say(meter.resumed())
    meter.show()
    files = files_of(template)
    job = ScanJob(record.source, files, sharing=sharing, observer=settings.observer, progress=meter.of_ranges)
    for part in parts:
        names = part.names
        shared = tuple(common.runs.get(name) for name in names) if common else ()
        job = replace(job, guests=tuple(guests[name] for name in names), shared=shared)
        if checkpoint is not None:
            checkpoint.begin(tuple(keys[name] for name in names))
        for result in _results(job, part, template, settings, meter.show):
            findings.add(result, names)
            if checkpoint is not None:
                checkpoint.add(result)
            meter.count(result.number, names)
    settings.close()
    return findings


@dataclass(slots=True)
class _Kinds:
    exported: set[str] = field(default_factory=set)
    native: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)


class _Part(NamedTuple):
    """Guests that are scanned together, and the ranges to scan; ``exported`` may contain other guests, too."""

    names: tuple[str, ...]
    numbers: list[int]
    exported: set[str]
    is_remote: bool = False


def _check_remote(template: Image, remote: RemoteScans | None) -> None:
    if remote is not None and not is_read_natively(template):
        raise UsageError(
            f"--scheduler cannot be used with the template {template.path}",
            why="batchdiff reads it through QEMU, which other hosts may lack or have in another version",
            remedy="Plan without --scheduler, or first convert the template to unencrypted raw or qcow2.",
        )


def _parts(
    guests: Mapping[str, PlannedImage],
    groups: Mapping[tuple[str, ...], list[int]],
    kinds: _Kinds,
    settings: ScanSettings,
) -> list[_Part]:
    """Divide the scan into parts. Remote ones come first: the connection must be closed before a fork."""
    most = settings.budget.files
    files = files_to_open(guests, kinds.exported, most)
    remote, local = [], []
    for names, numbers in groups.items():
        if settings.remote is None:
            local += [_Part(batch, numbers, kinds.exported) for batch in batches(names, files, most)]
            continue
        elsewhere = [name for name in names if name in kinds.native]
        here = [name for name in names if name not in kinds.native | kinds.unreadable]
        # Without guests, the template alone is scanned: its digest may be needed.
        if elsewhere or not here:
            remote += [_Part(batch, numbers, set(), is_remote=True) for batch in batches(elsewhere, files, most)]
        if here:
            local += [_Part(batch, numbers, kinds.exported) for batch in batches(here, files, most)]
    return remote + local


def _results(
    job: ScanJob,
    part: _Part,
    template: Image,
    settings: ScanSettings,
    waiting: Callable[[], None],
) -> Iterator[RangeResult]:
    if part.is_remote and settings.remote is not None:
        yield from settings.remote.results(job, template, part.numbers)
        return
    settings.close()
    to_export = [
        guest
        for guest, name in zip(job.guests, part.names, strict=True)
        if name in part.exported and not isinstance(guest, ImageError)
    ]
    with exports(template, to_export, settings.observer):
        workers = min(settings.budget.jobs, max(len(part.numbers), 1))
        yield from run_tasks(job, part.numbers, workers=workers, waiting=waiting)


def _ranges(
    template: Image,
    guests: Mapping[str, PlannedImage],
    findings: Findings,
    common: CommonBlocks | None,
    settings: ScanSettings,
) -> tuple[list[int], _Kinds]:
    """Return the ascending ranges that may have data, and the kinds of guests; record failures in ``findings``."""
    kinds = _Kinds()
    found = set(ranges_with_data(template))
    for number, (name, record) in enumerate(guests.items()):
        settings.opened(number)
        try:
            with reopen(record, settings.observer) as image:
                found.update(ranges_with_data(image))
                if is_exported(image):
                    kinds.exported.add(name)
                elif is_read_natively(image):
                    kinds.native.add(name)
                if common is not None:
                    common.add(name, image)
        except ImageError as error:
            findings.failures[name] = error
            kinds.unreadable.add(name)
    if common is not None:
        common.confirm()
        findings.located = common.located
    return sorted(found), kinds


def ranges_with_data(image: Image) -> Iterator[int]:
    """Yield the ranges in which an image may have data, ascending."""
    at = 0
    while (found := image.next_data(at)) is not None:
        number = found // RANGE
        yield number
        at = (number + 1) * RANGE


class _Meter:
    def __init__(self, template_size: int, guests: Mapping[str, PlannedImage], progress: Progress) -> None:
        self._template_size = template_size
        self._sizes = {name: image.virtual_size for name, image in guests.items()}
        self._progress = progress
        self.done = self.total = 0
        self.of_ranges = RangeProgress(RANGE, self.show)

    def begin(self, ranges: list[int], groups: dict[tuple[str, ...], list[int]], parts: list[_Part]) -> None:
        """Set ``done`` and ``total``; ``parts``: the ``groups``, divided into batches."""
        whole = self._bytes_in([(tuple(self._sizes), ranges)])
        self.done = max(whole - self._bytes_in(groups.items()), 0)
        self.total = self.done + self._bytes_in((part.names, part.numbers) for part in parts)

    def resumed(self) -> str:
        done, total = format_size(self.done), format_size(self.total)
        return f"Resuming an interrupted scan: {done} of {total} is already done."

    def count(self, number: int, names: tuple[str, ...]) -> None:
        self.done += self._bytes_of(number, names)
        self.of_ranges.end(number)
        self.show()

    def show(self) -> None:
        self._progress(min(self.done + self.of_ranges.scanned, self.total), self.total)

    def _bytes_in(self, parts: Iterable[tuple[tuple[str, ...], list[int]]]) -> int:
        return sum(self._bytes_of(number, names) for names, numbers in parts for number in numbers)

    def _bytes_of(self, number: int, names: tuple[str, ...]) -> int:
        sizes = [self._template_size, *(self._sizes[name] for name in names)]
        return sum(min(max(size - number * RANGE, 0), RANGE) for size in sizes)
