"""Estimate a fleet: find what metadata settles, and sample the rest until the total is certain enough.

::

    examine_guests -> candidates -> frames -> first probes -> is the total certain enough? -> sizes -> estimate
                                                  ^                    | no
                                                  +-- double samples --+   those that make it least certain

Each guest is sampled at offsets of its own, drawn from the seed and its name. So the errors of guests do not add
up, and the estimate does not depend on the number of jobs.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.estimation.estimate import Estimate, GuestEstimate, totals_of_estimates
from batchdiff.estimation.guest_sample import FIRST_PROBES, GuestSample
from batchdiff.estimation.jobs import Fleet, SampledGuest
from batchdiff.estimation.pricing import DEFAULT_PRICING, pricing_of, probe_size
from batchdiff.estimation.sampler import Sampler
from batchdiff.estimation.sizes import Sizes
from batchdiff.files.descriptors import raise_descriptor_limit
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import inspect, open_image
from batchdiff.image.storage.shared_blocks import has_shared_extents, shared_blocks
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.planning.assessment import FleetFacts
from batchdiff.planning.candidates import Candidate, Part, examine_guests, planned_image, untouched_guest
from batchdiff.planning.planner import GENERATOR
from batchdiff.planning.scan.exports import is_exported
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.reopening import budget, files_of, reopen
from batchdiff.planning.scan_all import ranges_with_data
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB

_USUAL_PROBE = 2 * 64 * KIB
"""The bytes that are usually read for a probe, of both images."""


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """The options of an estimate.

    ``error``: the wanted half width of the interval of the total savings, as a share of what the guests take on
    disk. ``seed``: any number; the same one gives the same estimate. ``progress`` is called with the bytes read so
    far and those to read; ``observer``, at every read of an image.
    """

    error: float
    seed: int
    jobs: int
    progress: Callable[[int, int], None] = lambda _done, _total: None
    observer: ReadObserver | None = None


def make_estimate(manifest: Manifest, options: EstimateOptions, plans: EarlierPlans) -> Estimate:
    """Return the estimate for all guests of a manifest, with the reason for each that a plan would not convert.

    ``plans``: the earlier plans, which may have converted guests.

    :raises ImageError: the template cannot be read, is in use, or changed meanwhile.
    :raises WorkerError: a worker process died.
    """
    raise_descriptor_limit()
    observer = options.observer
    options.progress(0, len(manifest.guests) * FIRST_PROBES * _USUAL_PROBE)
    with open_image(manifest.template, observer=observer) as image:
        require_unused(image, Purpose.TEMPLATE)
        inspect(image, refcounts=True)
        template = planned_image(image)
        parts = examine_guests(manifest, template, plans, observer)
        sharing = has_shared_extents(image)
        facts = FleetFacts(manifest, shared_blocks(image) if sharing else {}, {}, observer)
        found = _Estimator(image, parts, facts, options, sharing=sharing).estimated()
        whole = _data_bytes(image) + found.open_bytes
        if changes := template.changes(image.fingerprints()):
            raise ImageError(
                "the template changed while it was sampled",
                why=changes,
                remedy="Shut down the VM or program that writes to it, and estimate again.",
            )
    return Estimate(
        generator=GENERATOR,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        manifest_path=manifest.path,
        manifest_sha256=manifest.sha256,
        template=template.source,
        template_size=template.virtual_size,
        guests=found.guests,
        totals=totals_of_estimates(found.guests),
        wanted_error=options.error,
        seed=options.seed,
        whole_bytes=whole,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The estimates of all guests, and the bytes of the guests that metadata left open."""

    guests: tuple[GuestEstimate, ...]
    open_bytes: int


class _Estimator:
    """The work on one fleet; ``_decided``: estimates of guests that are not sampled, or not any longer."""

    def __init__(
        self, template: Image, parts: list[Part], facts: FleetFacts, options: EstimateOptions, *, sharing: bool
    ) -> None:
        self._parts, self._options, self._facts = parts, options, facts
        self._candidates = {part.entry.name: part for part in parts if isinstance(part, Candidate)}
        self._decided = {part.name: GuestEstimate(part) for part in parts if not isinstance(part, Candidate)}
        guests, exported = self._opened()
        fleet = Fleet(template.source, files_of(template), guests, sharing, options.observer)
        jobs = budget(options.jobs, len(template.layers)).jobs
        self._sampler = Sampler(template, fleet, exported, jobs=jobs, progress=options.progress)
        self._sizes = Sizes(self._candidates, facts, jobs=jobs)
        self._samples = self._begun(guests)

    def estimated(self) -> _Found:
        """Sample until the total is certain enough, or until everything is read."""
        target = self._options.error * sum(sample.allocated for sample in self._samples.values())
        self._read()
        while True:
            while refine(self._samples, target):
                self._read()
            estimates = self._decided | self._sizes.estimates(self._samples)
            guests = tuple(estimates[_name_of(part)] for part in self._parts)
            if totals_of_estimates(guests).error <= self._options.error or not self._read_further():
                open_bytes = sum(sample.frame.open_bytes for sample in self._samples.values())
                return _Found(guests, open_bytes)
            # The sizes of tables, and savings that may be too small, add to the uncertainty of the data.
            target /= 2

    def _read_further(self) -> bool:
        """Return True if anything is left to read. If only tables are uncertain, that is read here."""
        if not all(sample.is_complete for sample in self._samples.values()):
            return True
        uncertain = [sample for sample in self._samples.values() if sample.leaves_cleared]
        for sample in uncertain:
            sample.read_cleared()
        self._read()
        return bool(uncertain)

    def _read(self) -> None:
        for name, error in self._sampler.read(self._samples).items():
            self._fail(name, error)

    def _fail(self, name: str, error: ImageError) -> None:
        candidate = self._candidates[name]
        refused = untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, str(error))
        self._decided[name] = GuestEstimate(refused)
        self._samples.pop(name, None)

    def _opened(self) -> tuple[dict[str, SampledGuest], list[str]]:
        """Open each candidate for a moment; return how it is sampled, and which ones QEMU exports."""
        guests, exported = {}, []
        for name, candidate in self._candidates.items():
            try:
                with reopen(candidate.record, self._options.observer) as image:
                    guests[name] = _sampled_guest(candidate, image)
                    exported += [name] * is_exported(image)
            except ImageError as error:
                refused = untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, str(error))
                self._decided[name] = GuestEstimate(refused)
        return guests, exported

    def _begun(self, guests: Mapping[str, SampledGuest]) -> dict[str, GuestSample]:
        """Find the frame of each guest, and draw its first probes."""
        samples: dict[str, GuestSample] = {}
        self._samples = samples
        for name, frame in self._sampler.frames().items():
            if isinstance(frame, ImageError):
                self._fail(name, frame)
                continue
            random = np.random.default_rng([self._options.seed, zlib.crc32(os.fsencode(name))])
            samples[name] = GuestSample(frame, guests[name].pricing, guests[name].allocated, random)
        return samples


def refine(samples: Mapping[str, GuestSample], target: float) -> bool:
    """Double the samples that make the sum of all data the least certain; return False if none need it.

    ``target``: half of the width that the interval of the sum may have, in bytes. Doubling a sample halves its
    variance, so the fewest samples are doubled with which the sum should then be certain enough.
    """
    squares = [
        (interval.half_width**2, name, kind)
        for name, sample in samples.items()
        for kind, interval in sample.data_bytes().items()
        if not interval.is_exact
    ]
    left = sum(square for square, *_ in squares)
    if math.sqrt(left) <= target:
        return False
    for square, name, kind in sorted(squares, reverse=True):
        samples[name].double(kind)
        left -= square / 2
        if math.sqrt(max(left, 0.0)) <= target:
            break
    return bool(squares)


def _sampled_guest(candidate: Candidate, image: Image) -> SampledGuest:
    try:
        pricing = pricing_of(candidate.entry, image)
    except OSError:
        pricing = DEFAULT_PRICING  # the folder of its overlay cannot be accessed: the sizes will report that
    size = probe_size(candidate.entry.options, pricing.unit, image.virtual_size, RANGE)
    allocated = sum(os.fstat(file.fd).st_blocks * 512 for file in image.own_files)
    return SampledGuest(candidate.record, size, pricing, allocated)


def _data_bytes(image: Image) -> int:
    """Return the bytes of an image that are not known to be zeros."""
    return sum(
        segment.end - segment.start
        for number in ranges_with_data(image)
        for segment in image.segments(number * RANGE, (number + 1) * RANGE)
        if segment.origin is not Origin.ZERO
    )


def _name_of(part: Part) -> str:
    return part.entry.name if isinstance(part, Candidate) else part.name
