"""The jobs of an estimate.

::

    FrameJob    guest -> the classes of its probes, from metadata
    ProbeJob    some probes of a guest -> their contents
    SizeJob     guest, with its imputed content -> what a plan would predict for it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.estimation.frame import Frame, ProbeClass, frame_of
from batchdiff.estimation.guest_sample import GuestSample
from batchdiff.estimation.pricing import OverlayPlace, PriceRule, Pricing, is_to_be_chosen, table_coverage
from batchdiff.estimation.probe_reader import ProbeContents, ProbeReader
from batchdiff.extents import Kind, count_touched
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver, settle
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.storage.raw_shareable import TemplateBlocks
from batchdiff.image.storage.shared_blocks import raw_extents
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestPlan, PlannedImage
from batchdiff.planning.assessment import FleetFacts, assess, least_savings
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.guest_plans import untouched_guest
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.reopening import Files, open_same_files, reopen
from batchdiff.planning.sizes.compressed_estimate import Measure, Sample, stored_lengths
from batchdiff.planning.sizes.disk_use import space_taken
from batchdiff.planning.verdicts import Below, LeastSavings
from batchdiff.qcow2.layout import granules_to_write


@frozen
class SampledGuest:
    """A guest to be sampled.

    ``probe_size``: in bytes. ``allocated``: the bytes that the guest's own files take on disk.
    """

    record: PlannedImage
    probe_size: int
    place: OverlayPlace
    allocated: int


@frozen
class Fleet:
    """The template, and the guests by name.

    ``files``: the identities of the template's files when it was first opened. ``sharing``: the template shares
    blocks with other files.
    """

    template: ImageSource
    files: Files
    guests: Mapping[str, SampledGuest]
    sharing: bool
    observer: ReadObserver | None = None

    def open_template(self) -> Image:
        """Open the template.

        :raises ImageError: it cannot be opened, or now consists of different files.
        """
        return open_same_files(self.template, self.files, self.observer)

    def open_guest(self, name: str) -> Image:
        """Open a guest.

        :raises ImageError: it cannot be opened, or has changed.
        """
        return reopen(self.guests[name].record, self.observer)


class FrameResult(NamedTuple):
    """A guest's frame, or why there is none."""

    name: str
    frame: Frame | ImageError


@frozen
class FrameJob:
    """The search for frames; a task is a guest's name."""

    fleet: Fleet

    @contextmanager
    def begin(self) -> Iterator[Callable[[str], FrameResult]]:
        """Open the template, and yield the function that does a task."""
        fleet = self.fleet
        with fleet.open_template() as template:

            def find(name: str) -> FrameResult:
                try:
                    with fleet.open_guest(name) as guest:
                        size = fleet.guests[name].probe_size
                        return FrameResult(name, frame_of(template, guest, size, sharing=fleet.sharing))
                except ImageError as error:
                    if error.path in fleet.template.files:
                        raise
                    return FrameResult(name, error)

            yield find

    def describe(self, name: str) -> str:
        """Describe a task, for messages."""
        return f"looking for the data of guest {name}"


class ProbeTask(NamedTuple):
    """Probes to read. ``indices``: their places in their class; ``numbers``: their places in the guest."""

    name: str
    pricing: Pricing
    kind: ProbeClass
    indices: list[int]
    numbers: npt.NDArray[np.int64]


class ProbeResult(NamedTuple):
    """The contents of a task's probes, or why the guest cannot be read."""

    task: ProbeTask
    reading: ProbeContents | ImageError


@frozen
class ProbeJob:
    """The reading of probes."""

    fleet: Fleet

    @contextmanager
    def begin(self) -> Iterator[Callable[[ProbeTask], ProbeResult]]:
        """Open the template, and yield the function that does a task."""
        fleet = self.fleet
        readers: dict[tuple[str, Pricing], ProbeReader] = {}
        with fleet.open_template() as template, ExitStack() as opened:

            def reader_of(task: ProbeTask) -> ProbeReader:
                key = task.name, task.pricing
                if key not in readers:
                    readers.clear()
                    opened.close()
                    guest = opened.enter_context(fleet.open_guest(task.name))
                    readers[key] = ProbeReader(template, guest, task.pricing, fleet.guests[task.name].probe_size)
                return readers[key]

            def probe(task: ProbeTask) -> ProbeResult:
                try:
                    reader = reader_of(task)
                except ImageError as error:
                    return ProbeResult(task, error)
                contents = reader.read(task.numbers, task.kind)
                settle(fleet.observer)
                return ProbeResult(task, contents)

            yield probe

    def describe(self, task: ProbeTask) -> str:
        """Describe a task, for messages."""
        count = len(task.numbers)
        return f"reading {count} {'sample' if count == 1 else 'samples'} of guest {task.name}"


class SizeResult(NamedTuple):
    """The prediction for a guest with its imputed content.

    ``taken``: with the rule WRITTEN, the bytes on disk that the prediction includes for the overlay's data.
    ``tables``: the number of the overlay's tables, as :func:`table_coverage` counts them. ``threshold``: the least
    savings, in bytes, with which the guest is converted.
    """

    plan: GuestPlan
    taken: int = 0
    tables: int = 0
    threshold: float = 0.0


@frozen
class SizeJob:
    """The prediction of sizes and savings; a task is a guest's name."""

    candidates: Mapping[str, Candidate]
    samples: Mapping[str, GuestSample]
    facts: FleetFacts

    @contextmanager
    def begin(self) -> Iterator[Callable[[str], SizeResult]]:
        """Open the template if it is needed, and yield the function that does a task."""
        if not self.facts.can_share:
            yield self._size
            return
        with open_image(self.facts.manifest.template, observer=self.facts.observer) as template:
            yield partial(self._size, template=TemplateBlocks(template))

    def describe(self, name: str) -> str:
        """Describe a task, for messages."""
        return f"estimating the savings of guest {name}"

    def _size(self, name: str, template: TemplateBlocks | None = None) -> SizeResult:
        sample = self.samples[name]
        candidate, content, pricing = (
            with_geometry(self.candidates[name], sample),
            sample.imputed(),
            sample.pricing,
        )
        units = content.extents(min(pricing.resolution, sample.frame.probe_size))
        measure: Measure = content.compressed_lengths if pricing.compresses else _measured
        plan = assess(candidate, (units, content.similarity), None, self.facts, measure, template)
        if plan.diff is None or not candidate.entry.gets_overlay:
            return SizeResult(plan)
        size, geometry = candidate.record.virtual_size, plan.diff.geometry
        extents = granules_to_write(units, UNIT, size, geometry, whole_clusters=pricing.compresses)
        unit, options = plan.diff.savings.allocation_unit, candidate.entry.options
        tables = count_touched(extents, table_coverage(options, geometry, unit)[0] // geometry.granule)
        taken, is_counted = 0, pricing.rule is PriceRule.WRITTEN
        least, below = LeastSavings(minimum := self.facts.manifest.minimum_savings), Below.NOTHING
        try:
            if is_counted or candidate.entry.rethin:
                with reopen(candidate.record, self.facts.observer) as image:
                    least, below = least_savings(candidate, image, minimum)
                    if is_counted:
                        data, known = extents.pairs(Kind.DATA) * geometry.granule, raw_extents(image)
                        taken = space_taken(image, data, sharing=False, unit=pricing.unit, known=known).data
        except ImageError as error:
            return SizeResult(untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, str(error)))
        return SizeResult(plan, taken, tables, least.threshold(plan.diff.savings.allocated_bytes, below))


def with_geometry(candidate: Candidate, sample: GuestSample) -> Candidate:
    """Return a candidate with the geometry that ``auto`` has chosen, if it has chosen one."""
    options, geometry = candidate.entry.options, sample.pricing.geometry
    if geometry is None or not is_to_be_chosen(candidate.entry):
        return candidate
    fixed = replace(options, cluster_size=geometry.cluster_size, extended_l2=geometry.extended_l2)
    return replace(candidate, entry=replace(candidate.entry, options=fixed))


def _measured(samples: list[Sample]) -> list[list[int]]:
    return [stored_lengths(sample) for sample in samples]
