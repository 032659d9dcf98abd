"""Estimate a fleet from metadata and samples.

::

    candidates -> frames -> first probes -> data certain enough? -> sizes -> total certain enough? -> estimate
                                 ^                  | no                             | no
                                 +---- double ------+------ halve the target --------+
                           the least certain samples

Each guest is sampled at offsets of its own, so the errors of different guests are independent.
"""

from __future__ import annotations

import datetime as dt
import os
import time
import zlib
from collections.abc import Callable

import numpy as np

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.estimation.as_planned import planned_guests
from batchdiff.estimation.estimate import Estimate, GuestEstimate, totals_of_estimates
from batchdiff.estimation.guest_sample import GuestSample, first_probes
from batchdiff.estimation.jobs import Fleet, SampledGuest
from batchdiff.estimation.plan_reading import data_bytes, plan_reads_less, times_read
from batchdiff.estimation.pricing import is_to_be_chosen, overlay_place, pricing_of, probe_size
from batchdiff.estimation.refinement import refine
from batchdiff.estimation.sampler import Sampler
from batchdiff.estimation.sizes import Sizes, best_geometry
from batchdiff.files.descriptors import raise_descriptor_limit
from batchdiff.frozen import frozen
from batchdiff.image import formats  # noqa: F401  # loaded early: batchdiff may be updated meanwhile
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import inspect, open_image
from batchdiff.image.storage.shared_blocks import has_shared_extents, shared_blocks
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.overlay_options import geometry_of
from batchdiff.plan.sidecar import is_known_template
from batchdiff.planning.assessment import FleetFacts
from batchdiff.planning.candidates import Candidate, Part, examine_guests, planned_image
from batchdiff.planning.guest_plans import untouched_guest
from batchdiff.planning.planner import GENERATOR
from batchdiff.planning.scan.exports import is_exported
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.reopening import budget, files_of, reopen
from batchdiff.planning.sharing_objections import without_unshareable
from batchdiff.progress import ignore

_GEOMETRY_CHANGES = 3
"""The number of times that the geometry of an overlay may be chosen anew."""


@frozen
class EstimateOptions:
    """The options of an estimate.

    ``error``: the wanted half width of the interval of the total savings, as a share of the allocation of the
    sampled guests. ``seed``: at least 0. ``opened`` is called with a growing count of images; ``progress``, with
    the bytes read so far and the total, which may grow.
    """

    error: float
    seed: int
    jobs: int
    opened: Callable[[int], None] = ignore
    progress: Callable[[int, int], None] = lambda _done, _total: None
    observer: ReadObserver | None = None


def make_estimate(manifest: Manifest, options: EstimateOptions, plans: EarlierPlans) -> Estimate:
    """Return the estimate for all guests of a manifest.

    :raises ImageError: the template cannot be used, or has changed.
    :raises WorkerError: a worker failed.
    """
    begun = time.monotonic()
    raise_descriptor_limit()
    observer = options.observer
    options.opened(0)
    with open_image(manifest.template, observer=observer) as image:
        require_unused(image, Purpose.TEMPLATE)
        inspect(image, refcounts=True)
        template = planned_image(image)
        parts = examine_guests(manifest, template, plans, observer, options.opened)
        parts = without_unshareable(parts, image, observer)
        sharing = has_shared_extents(image)
        can_share = any(isinstance(part, Candidate) and not part.entry.gets_overlay for part in parts)
        facts = FleetFacts(manifest, shared_blocks(image) if sharing else {}, {}, observer, can_share)
        estimator = _Estimator(image, parts, facts, options, sharing=sharing)
        of_template = estimator.times_read * data_bytes(image)
        if sharing:  # a plan reads the template only where guests have blocks of their own
            of_template = min(of_template, estimator.open_bytes)
        whole = of_template + estimator.open_bytes
        guests = estimator.estimated(whole)
        planned = guests is None
        if guests is None:
            guests = estimator.planned(plans)
        if not is_known_template(template, now := image.fingerprints()):
            raise ImageError(
                "the template changed while it was sampled",
                why=template.changes(now),
                remedy="Shut down the VM or program that writes to it, and estimate again.",
            )
    return Estimate(
        generator=GENERATOR,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        manifest_path=manifest.path,
        manifest_sha256=manifest.sha256,
        template=template.source,
        template_size=template.virtual_size,
        guests=guests,
        totals=totals_of_estimates(guests),
        wanted_error=options.error,
        seed=options.seed,
        whole_bytes=whole,
        seconds=time.monotonic() - begun,
        template_bytes=of_template if planned else 0,
    )


class _PlanReadsLessError(Exception):
    """A plan is better than further samples, so its figures are the estimate."""


class _Estimator:
    """The work on one fleet. ``_decided``: estimates of guests that are not, or no longer, sampled."""

    def __init__(
        self, template: Image, parts: list[Part], facts: FleetFacts, options: EstimateOptions, *, sharing: bool
    ) -> None:
        self._parts, self._options, self._facts = parts, options, facts
        self._candidates = {part.entry.name: part for part in parts if isinstance(part, Candidate)}
        self._decided = {part.name: GuestEstimate(part) for part in parts if not isinstance(part, Candidate)}
        self._samples: dict[str, GuestSample] = {}
        self._changes: dict[str, int] = {}
        self._whole = 0
        self._guests, exported = self._opened()
        fleet = Fleet(template.source, files_of(template), self._guests, sharing, options.observer)
        limits = budget(options.jobs, len(template.layers))
        self._sampler = Sampler(template, fleet, exported, jobs=limits.jobs, progress=options.progress)
        self._sizes = Sizes(self._candidates, facts, jobs=limits.jobs)
        records = {name: guest.record for name, guest in self._guests.items()}
        self.times_read = times_read(records, exported, limits.files)
        self._begin()

    @property
    def open_bytes(self) -> int:
        """The bytes of the guests' data that metadata does not settle."""
        return sum(sample.frame.open_bytes for sample in self._samples.values())

    def planned(self, plans: EarlierPlans) -> tuple[GuestEstimate, ...]:
        before = self._sampler.done
        return planned_guests(
            self._facts.manifest,
            self._samples,
            plans,
            jobs=self._options.jobs,
            progress=lambda done, total: self._options.progress(before + done, before + total),
            observer=self._options.observer,
        )

    def estimated(self, whole: int) -> tuple[GuestEstimate, ...] | None:
        """Return the estimates; None if a plan, which reads ``whole`` bytes, is better."""
        self._whole = whole
        try:
            return self._sampled()
        except _PlanReadsLessError:
            return None

    def _sampled(self) -> tuple[GuestEstimate, ...]:
        """Sample until the total is certain enough or everything is read."""
        target = self._options.error * sum(sample.allocated for sample in self._samples.values())
        self._read()
        while True:
            self._choose()
            while refine(self._samples, target):
                self._read()
            if self._choose():
                continue  # prices have changed, so the sample may have to be larger
            estimates = self._decided | self._sizes.estimates(self._samples)
            guests = tuple(estimates[_name_of(part)] for part in self._parts)
            if totals_of_estimates(guests).error <= self._options.error or not self._read_further():
                return guests
            # Tables, and guests that may save too little to be converted, make the total less certain.
            target /= 2

    def _choose(self) -> bool:
        """Choose geometries; return True if one has changed.

        After a few changes, a guest keeps its geometry: others are about as good.
        """
        changed = False
        for name, sample in self._samples.items():
            entry = self._candidates[name].entry
            if not is_to_be_chosen(entry) or self._changes.get(name, 0) > _GEOMETRY_CHANGES:
                continue
            geometry = best_geometry(self._candidates[name], sample)
            if geometry is not None and geometry != sample.pricing.geometry:
                sample.price_by(pricing_of(entry, geometry, self._guests[name].place))
                self._changes[name] = self._changes.get(name, 0) + 1
                changed = True
        if changed:
            self._read()
        return changed

    def _read_further(self) -> bool:
        """Return True if the estimate can improve; if only tables are uncertain, first read what settles them."""
        if not all(sample.is_complete for sample in self._samples.values()):
            return True
        uncertain = [sample for sample in self._samples.values() if sample.leaves_cleared]
        for sample in uncertain:
            sample.read_cleared()
        self._read()
        return bool(uncertain)

    def _read(self) -> None:
        sampled = self._sampler.done + self._sampler.wanted(self._samples)
        left = sum(each.bytes_left for each in self._samples.values())
        if plan_reads_less(sampled, left, self._whole, exact=not self._options.error):
            raise _PlanReadsLessError
        for name, error in self._sampler.read(self._samples).items():
            self._fail(name, error)

    def _fail(self, name: str, error: ImageError) -> None:
        candidate = self._candidates[name]
        refused = untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, str(error))
        self._decided[name] = GuestEstimate(refused)
        self._samples.pop(name, None)

    def _opened(self) -> tuple[dict[str, SampledGuest], list[str]]:
        """Return the guests to sample, and the names of those that QEMU must export."""
        guests, exported = {}, []
        for number, (name, candidate) in enumerate(self._candidates.items()):
            self._options.opened(1 + len(self._parts) + number)
            try:
                with reopen(candidate.record, self._options.observer) as image:
                    guests[name] = _sampled_guest(candidate, image)
                    exported += [name] * is_exported(image)
            except ImageError as error:
                self._fail(name, error)
        return guests, exported

    def _begin(self) -> None:
        first = first_probes(len(self._guests))
        for name, frame in self._sampler.frames().items():
            if isinstance(frame, ImageError):
                self._fail(name, frame)
                continue
            entry = self._candidates[name].entry
            is_open = entry.options.cluster_size is None or is_to_be_chosen(entry)
            geometry = None if is_open else geometry_of(entry.options, entry.options.cluster_size or 0)
            pricing = pricing_of(entry, geometry, self._guests[name].place)
            random = np.random.default_rng([self._options.seed, zlib.crc32(os.fsencode(name))])
            self._samples[name] = GuestSample(frame, pricing, self._guests[name].allocated, random, first)


def _sampled_guest(candidate: Candidate, image: Image) -> SampledGuest:
    place = overlay_place(candidate.entry, image)
    size = probe_size(candidate.entry.options, place.unit, image.virtual_size, RANGE)
    allocated = sum(os.fstat(file.fd).st_blocks * 512 for file in image.own_files)
    return SampledGuest(candidate.record, size, place, allocated)


def _name_of(part: Part) -> str:
    return part.entry.name if isinstance(part, Candidate) else part.name
