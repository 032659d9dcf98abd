"""Makes a plan from a manifest: opens, scans, folds, measures; reads only.

::

    manifest -> candidates -> ranges with data -> pool (scan) -> extents of 4 KiB units by guest
                                                                      |
                      plan <- verdicts and savings <- folded to every cluster size
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from batchdiff import __version__
from batchdiff.errors import ImageError
from batchdiff.extents import Extents, concatenated
from batchdiff.image.digest import combined
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.image.sharing import has_shared_extents
from batchdiff.image.usage import Purpose, require_unused
from batchdiff.model.manifest import Manifest
from batchdiff.model.plan import GuestPlan, Plan, PlannedImage
from batchdiff.model.totals import totals_of
from batchdiff.planning.assessment import assessed, dismissed
from batchdiff.planning.candidates import Candidate, Dismissed, examined, planned, without_backing_files
from batchdiff.planning.estimate import Sample, stored_lengths
from batchdiff.planning.pool import run_tasks
from batchdiff.planning.scan import RANGE, RangeResult, ScanJob, Scanner, raise_descriptor_limit, ranges_with_data
from batchdiff.units import format_size

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, counted over all images."""


@dataclass(slots=True)
class _Findings:
    """What the scans of all ranges gave; guests by their number among the candidates."""

    sharing: bool
    digests: dict[int, bytes] = field(default_factory=dict)
    differences: dict[int, dict[int, Extents]] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)

    def add(self, result: RangeResult) -> None:
        """Takes in the result of one range."""
        if result.template_digest is not None:
            self.digests[result.number] = result.template_digest
        for guest, found in result.differences.items():
            self.differences.setdefault(guest, {})[result.number] = found
        self.failures.update(result.failures)

    def digest(self, virtual_size: int) -> str:
        """The template's digest; empty where it was not read whole, because it shares blocks with guests."""
        return "" if self.sharing else combined(virtual_size, self.digests)

    def units(self, guest: int) -> Extents:
        """The extents of a guest in 4 KiB units."""
        found = self.differences.pop(guest, {})
        return concatenated([found[number] for number in sorted(found)])


def make_plan(manifest: Manifest, *, jobs: int, progress: Progress = lambda _done, _total: None) -> Plan:
    """The plan for all guests of a manifest; guests that cannot be converted are in it with the reason.

    :raises ImageError: the template cannot be read, is in use, or changed during the scan.
    :raises WorkerError: a worker process died.
    """
    raise_descriptor_limit()
    with ExitStack() as opened:
        image = opened.enter_context(open_image(manifest.template))
        require_unused(image, Purpose.TEMPLATE)
        inspect(image)
        template = planned(image)
        parts = without_backing_files(
            [examined(entry, template, manifest) for entry in manifest.guests],
            (*manifest.guests, *manifest.left_out),
        )
        candidates = [part for part in parts if isinstance(part, Candidate)]
        for candidate in candidates:
            opened.enter_context(candidate.image)
        findings = _scan(image, candidates, manifest, jobs=jobs, progress=progress)
        _check_unchanged(image, template)
        guests = _guest_plans(parts, findings, manifest, jobs)
    return Plan(
        generator=f"batchdiff {__version__}",
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        manifest_path=manifest.path,
        manifest_sha256=manifest.sha256,
        template=template,
        template_digest=findings.digest(template.virtual_size),
        retire=manifest.retire,
        protect_template=manifest.protect_template,
        guests=guests,
        totals=totals_of(guests, manifest.retire),
    )


def _scan(
    template: Image, candidates: list[Candidate], manifest: Manifest, *, jobs: int, progress: Progress
) -> _Findings:
    sources = tuple(candidate.entry.image for candidate in candidates)
    job = ScanJob(manifest.template, sources, sharing=has_shared_extents(template))
    images = [template, *(candidate.image for candidate in candidates)]
    ranges = list(ranges_with_data(images))
    sizes = [image.virtual_size for image in images]
    total, done = sum(_bytes_of(number, sizes) for number in ranges), 0
    findings = _Findings(job.sharing)
    progress(0, total)
    with ExitStack() as ours:  # with one job the scanner is in this process; a worker's ends with it

        def start() -> Callable[[int], RangeResult]:
            scanner = Scanner(job)
            ours.callback(scanner.close)
            return scanner.scan

        for result in run_tasks(start, iter(ranges), jobs=min(jobs, max(len(ranges), 1)), describe=_named):
            findings.add(result)
            done += _bytes_of(result.number, sizes)
            progress(done, total)
    return findings


def _bytes_of(number: int, sizes: list[int]) -> int:
    """Bytes of all images that a range has."""
    return sum(min(max(size - number * RANGE, 0), RANGE) for size in sizes)


def _named(number: int) -> str:
    start = number * RANGE
    return f"bytes {start} to {start + RANGE} (from {format_size(start)} on) of the template and its guests"


def _check_unchanged(image: Image, before: PlannedImage) -> None:
    changes = before.changes(image.fingerprints())
    if changes:
        raise ImageError(
            "the template changed while it was scanned",
            why=changes,
            remedy="Shut down what writes to it, and plan again.",
        )
    require_unused(image, Purpose.TEMPLATE)  # or it may change the moment that we are done


def _guest_plans(
    parts: list[Candidate | Dismissed], findings: _Findings, manifest: Manifest, jobs: int
) -> tuple[GuestPlan, ...]:
    def measure(samples: list[Sample]) -> list[list[int]]:
        numbered = iter(enumerate(samples))
        found = run_tasks(lambda: _numbered, numbered, jobs=min(jobs, len(samples)), describe=_sampled)
        return [lengths for _, lengths in sorted(found)]

    plans = []
    number = 0
    for part in parts:
        if isinstance(part, Dismissed):
            plans.append(dismissed(part))
            continue
        failure = findings.failures.get(number)
        plans.append(assessed(part, findings.units(number), failure, manifest, measure))
        number += 1
    return tuple(plans)


def _numbered(task: tuple[int, Sample]) -> tuple[int, list[int]]:
    number, sample = task
    return number, stored_lengths(sample)


def _sampled(task: tuple[int, Sample]) -> str:
    return f"compressing a sample of {task[1].source.path}"
