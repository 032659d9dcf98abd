"""The estimates of guests: what a plan would predict for the imputed content, with the uncertainty.

::

    sample -> imputed content -> assess (as for a plan) -> overlay_disk_bytes, saved_bytes
       |                                                       |
       +---> intervals of data, shared blocks and tables ------+--> intervals
"""

from __future__ import annotations

from collections.abc import Mapping

from batchdiff.estimation.estimate import GuestEstimate
from batchdiff.estimation.guest_sample import GuestSample
from batchdiff.estimation.jobs import SizeJob, SizeResult
from batchdiff.estimation.pricing import PriceRule, is_to_be_chosen, table_coverage
from batchdiff.estimation.sampler import NO_ESTIMATE
from batchdiff.frozen import frozen
from batchdiff.plan.plan import Diff, GuestPlan, Sharing
from batchdiff.planning.assessment import FleetFacts
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.overlay_content import content_of
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.planning.verdicts import Below, LeastSavings
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import Geometry
from batchdiff.sampling.interval import Interval, exactly, sum_of

_SIZES_OF_A_WORKER = 6
"""The number of guests that justifies another worker: starting one takes as long as computing a few sizes."""

_CHOICE = 0.01
"""The share by which the overlay that ``auto`` chooses may be larger than the smallest one."""

_SLACK_UNITS = 2
"""The allocation units by which an estimate may be wrong in any case."""


@frozen
class Sizes:
    """What the estimates of guests depend on besides their samples. ``jobs``: the maximum number of workers."""

    candidates: Mapping[str, Candidate]
    facts: FleetFacts
    jobs: int

    def estimates(self, samples: Mapping[str, GuestSample]) -> dict[str, GuestEstimate]:
        """Return the estimates by guest.

        :raises ImageError: the template cannot be opened.
        :raises WorkerError: a worker failed.
        """
        job = SizeJob(self.candidates, samples, self.facts)
        workers = min(self.jobs, len(samples) // _SIZES_OF_A_WORKER + 1)
        return {
            result.plan.name: self._estimate(result, samples[result.plan.name])
            for result in run_tasks(job, samples, workers=workers, outcome=NO_ESTIMATE)
        }

    def _estimate(self, result: SizeResult, sample: GuestSample) -> GuestEstimate:
        plan = result.plan
        if plan.sharing is not None and not self.candidates[plan.name].entry.gets_overlay:
            return self._sharing(plan, plan.sharing, sample)
        if plan.diff is None:
            return GuestEstimate(plan, probes=sample.probes, read_bytes=sample.read_bytes)
        savings, doubt = plan.diff.savings, _Doubt.of(self.candidates[plan.name], plan.diff, sample, result.tables)
        # The planner leaves out the guest's holes even where data is imputed, so count the data found in probes.
        is_counted = sample.pricing.rule is PriceRule.WRITTEN
        data = sum_of(sample.data_bytes().values())
        shared = savings.saved_bytes - savings.reclaimable_bytes + savings.overlay_disk_bytes
        overlay, unshared = savings.overlay_disk_bytes, savings.overlay_disk_bytes - shared
        alone = data
        if is_counted:
            alone = sample.unshared_bytes() if sample.pricing.shares else data
            overlay += round(data.estimate) - result.taken
            unshared += round(alone.estimate) - (result.taken - shared)
        return GuestEstimate(
            plan,
            doubt.around(overlay, data),
            doubt.around(unshared, alone).subtracted_from(savings.reclaimable_bytes),
            result.threshold,
            sample.probes,
            sample.read_bytes,
            doubt.is_of_plan,
        )

    def _sharing(self, plan: GuestPlan, sharing: Sharing, sample: GuestSample) -> GuestEstimate:
        equal, saved = sum_of(sample.data_bytes().values()), exactly(float(sharing.saved_bytes))
        if not sample.is_complete:
            # Count the equal data found in the probes, not the imputed data.
            more = equal.estimate - sharing.shareable_bytes
            slack = _SLACK_UNITS * sharing.unit
            # Sharing never takes space, even if a small sample suggests that it does.
            saved = Interval(
                max(saved.estimate + more, 0.0),
                max(saved.low + more - (equal.estimate - equal.low) - slack, 0.0),
                max(saved.high + more + (equal.high - equal.estimate) + slack, 0.0),
            )
        threshold = LeastSavings(self.facts.manifest.minimum_savings).threshold(
            sharing.allocated_bytes, Below.NOTHING
        )
        return GuestEstimate(plan, None, saved, threshold, sample.probes, sample.read_bytes, sample.is_complete)


@frozen
class _Doubt:
    """The bytes by which an overlay, not counting its data, may be smaller or larger than estimated.

    ``per_byte``: what each byte of data adds to the overlay, with its part of the refcounts. ``is_of_plan``:
    a plan would have the same doubt.
    """

    below: float
    above: float
    per_byte: float
    is_of_plan: bool = False

    @classmethod
    def of(cls, candidate: Candidate, diff: Diff, sample: GuestSample, tables: int) -> _Doubt:
        """Return the doubt about an overlay. ``tables``: the estimated number of its tables."""
        geometry, savings = diff.geometry, diff.savings
        coverage, size = table_coverage(candidate.entry.options, geometry, savings.allocation_unit)
        least, most = sample.tables(coverage)
        if sample.is_complete and least == most:
            return cls(savings.overlay_error_bytes, savings.overlay_error_bytes, 1.0, is_of_plan=True)
        more = _SLACK_UNITS * savings.allocation_unit + savings.overlay_error_bytes
        is_open = is_to_be_chosen(candidate.entry)
        chosen = savings.overlay_disk_bytes * _CHOICE if is_open else 0.0
        per_byte = 1 + geometry.refcount_bits / 8 / geometry.cluster_size
        below, above = max(tables - least, 0) * size, max(most - tables, 0) * size
        return cls(below + more + chosen, above + more + chosen, per_byte)

    def around(self, size: float, data: Interval) -> Interval:
        below, above = data.estimate - data.low, data.high - data.estimate
        low = size - below * self.per_byte - self.below
        return Interval(size, max(low, min(size, 0.0)), size + above * self.per_byte + self.above)


def best_geometry(candidate: Candidate, sample: GuestSample) -> Geometry | None:
    """Return the geometry that a plan would choose for the imputed content.

    None if no geometry that the guest's options allow can map the disk.
    """
    content = sample.imputed()
    compared = content.extents(UNIT), content.similarity
    try:
        size, options = candidate.record.virtual_size, candidate.entry.options
        return content_of(compared, size, options, sample.pricing.unit).geometry
    except FormatError:
        return None
