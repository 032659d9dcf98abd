"""Derive a guest's part of the plan from its differences: cluster size, savings, verdict and reason."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from batchdiff.choices import Verdict
from batchdiff.errors import GuestError, ImageError
from batchdiff.extents import Extents, Kind
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver, settle
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import open_image
from batchdiff.image.storage.allocation import disk_use_of, list_bytes
from batchdiff.image.storage.allocation_units import Volume, volume_of
from batchdiff.image.storage.block_ranges import Blocks
from batchdiff.image.storage.raw_shareable import TemplateBlocks
from batchdiff.image.storage.shared_blocks import raw_extents
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import explain
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.linux.permissions import Deed
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.extents import runs_of
from batchdiff.plan.overlay_options import Compression, Preallocation, backing_name
from batchdiff.plan.plan import Diff, GuestPlan, GuestToConvert, Similarity, UntouchedGuest
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.guest_plans import entry_fields, untouched_guest
from batchdiff.planning.original_losses import forbidden_preallocation, original_losses
from batchdiff.planning.overlay_content import OverlayContent, ReusedOverlay, content_of
from batchdiff.planning.scan.reopening import reopen
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.share_in_place import or_share, plan_to_share
from batchdiff.planning.sizes.compressed_estimate import Measure, stored_data
from batchdiff.planning.sizes.disk_use import SpaceTaken, space_taken
from batchdiff.planning.sizes.extent_list import OverlayLists
from batchdiff.planning.sizes.overlay_layout import AnyLayout, encrypted_space, overlay_disk_bytes, overlay_layout
from batchdiff.planning.sizes.overlay_sizes import OverlaySize, disk_bytes, savings_of
from batchdiff.planning.verdicts import Below, LeastSavings, verdict_of
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.layout import Layout, layout_for, plan_layout
from batchdiff.units import align_up, ceil_div


@frozen
class FleetFacts:
    """Facts about the whole fleet. ``kept``: by device, the template's shared blocks, which stay in use.

    ``located``: by path, the shared or unwritten extents of some guests. ``can_share``: whether other files can
    share blocks with the template.
    """

    manifest: Manifest
    kept: Mapping[int, Blocks]
    located: Mapping[str, ExtentTable]
    observer: ReadObserver | None = None
    can_share: bool = False


def assess(  # noqa: PLR0913, PLR0917  # one caller
    candidate: Candidate,
    compared: tuple[Extents, Similarity],
    failure: ImageError | None,
    facts: FleetFacts,
    measure: Measure,
    template: TemplateBlocks | None = None,
) -> GuestPlan:
    """Return the plan of a guest that was compared, or whose scan failed.

    ``template``: None if no other file can share blocks with it.
    """
    if failure is not None:
        return _refuse(candidate, str(failure))

    def with_overlay(image: Image, known: ExtentTable | None) -> GuestPlan:
        unit = _volume(candidate, image).unit
        content = content_of(compared, candidate.record.virtual_size, candidate.entry.options, unit)
        return _plan_guest(candidate, image, content, facts, measure, known)

    def plan_of(image: Image) -> GuestPlan:
        known = _extents(image, facts)
        if candidate.entry.gets_overlay:
            return or_share(with_overlay(image, known), template, image, lambda: compared[0], known)
        try:
            overlay = with_overlay(image, known)
        except FormatError:  # no overlay with these options is possible, and none is wanted
            overlay = None
        return plan_to_share(candidate, template, image, compared, overlay, known, facts.manifest.minimum_savings)

    return _unless_changed(candidate, plan_of, facts.observer)


@frozen
class AssessmentJob:
    """The assessment of guests; a task is the name of one (:class:`~batchdiff.planning.scan.executor.Job`)."""

    candidates: Mapping[str, Candidate]
    findings: Findings
    facts: FleetFacts
    measure: Measure
    reused: Mapping[str, ReusedOverlay]

    @contextmanager
    def begin(self) -> Iterator[Callable[[str], GuestPlan]]:
        """Yield the function that assesses a guest.

        :raises ImageError: the template cannot be opened.
        """
        if not self.facts.can_share:
            yield self._assess
            return
        with open_image(self.facts.manifest.template, observer=self.facts.observer) as template:
            yield partial(self._assess, template=TemplateBlocks(template))

    def describe(self, name: str) -> str:
        """Describe the work on a guest."""
        return f"computing the savings of guest {name}"

    def _assess(self, name: str, template: TemplateBlocks | None = None) -> GuestPlan:
        failure = self.findings.failures.get(name)
        if failure is None and (overlay := self.reused.get(name)) is not None:
            units = partial(self.findings.units, name)
            return _assess_reused(self.candidates[name], overlay, self.facts, template, units)
        compared = self.findings.compared(name)
        return assess(self.candidates[name], compared, failure, self.facts, self.measure, template)


def _assess_reused(
    candidate: Candidate,
    overlay: ReusedOverlay,
    facts: FleetFacts,
    template: TemplateBlocks | None,
    units: Callable[[], Extents],
) -> GuestPlan:
    """Assess a guest by its diff in an older plan; ``units`` returns the guest's extents in units of 4 KiB."""
    content = overlay.content

    def plan_of(image: Image) -> GuestPlan:
        known = _extents(image, facts)
        plan = _plan_guest(candidate, image, content, facts, overlay.size, known)
        return or_share(plan, template, image, units, known)

    return _unless_changed(candidate, plan_of, facts.observer)


def _unless_changed(
    candidate: Candidate, plan_of: Callable[[Image], GuestPlan], observer: ReadObserver | None
) -> GuestPlan:
    try:
        with reopen(candidate.record, observer) as image:
            require_unused(image, Purpose.GUEST)  # again: a VM may have started meanwhile
            plan = plan_of(image)
            settle(observer)
            return plan
    except (GuestError, ImageError, FormatError) as error:
        return _refuse(candidate, str(error))


def _extents(image: Image, facts: FleetFacts) -> ExtentTable | None:
    """Return a guest's shared or unwritten extents; None if they are not known."""
    return facts.located.get(image.path) or raw_extents(image)


def _refuse(candidate: Candidate, reason: str) -> UntouchedGuest:
    return untouched_guest(candidate.entry, candidate.record, Verdict.REFUSE, reason)


def _plan_guest(  # noqa: PLR0913, PLR0917  # two callers
    candidate: Candidate,
    image: Image,
    content: OverlayContent,
    facts: FleetFacts,
    compressed: OverlaySize | Measure,
    known: ExtentTable | None,
) -> GuestPlan:
    geometry, extents = content.geometry, content.extents
    options = dataclasses.replace(
        candidate.entry.options, cluster_size=geometry.cluster_size, extended_l2=geometry.extended_l2
    )
    entry = dataclasses.replace(candidate.entry, options=options)
    settled = dataclasses.replace(candidate, entry=entry)
    layout = _layout(settled, extents, facts.manifest.template)
    volume = _volume(candidate, image)
    losses = original_losses(image, known)
    reason = forbidden_preallocation(losses, options, facts.manifest.allow_loss)
    if reason and entry.gets_overlay:
        return _refuse(candidate, reason)
    if options.compression is Compression.NONE:
        size = _uncompressed_size(settled, image, layout, content, known)
    elif isinstance(compressed, OverlaySize):
        size = compressed
    else:
        tables = layout_for(extents, candidate.record.virtual_size, geometry)
        size = _compressed_size(candidate, tables, extents, volume, compressed)
    use = disk_use_of(((each.fd, each.path) for each in image.own_files), kept=facts.kept, known=known)
    savings = savings_of(guest=use, volume=volume, overlay=size, compared=content.sizes, geometry=geometry)
    data_runs, zero_runs = runs_of(extents)
    diff = Diff(geometry=geometry, data=data_runs, zero=zero_runs, savings=savings, similarity=content.similarity)
    least, below = least_savings(candidate, image, facts.manifest.minimum_savings)
    verdict, reason = verdict_of(savings, use, content, least, below)
    if verdict is not Verdict.CONVERT:
        return untouched_guest(entry, candidate.record, verdict, reason, diff)
    fields = entry_fields(entry, candidate.record, reason)
    return GuestToConvert(**fields, image=candidate.record, diff=diff, losses=losses)


def _uncompressed_size(
    candidate: Candidate, image: Image, layout: AnyLayout, content: OverlayContent, known: ExtentTable | None
) -> OverlaySize:
    options, geometry, extents = candidate.entry.options, content.geometry, content.extents
    volume = _volume(candidate, image)
    unit = volume.unit
    lists = OverlayLists(layout, extents, volume, options.preallocation)
    data = extents.pairs(Kind.DATA) * geometry.granule
    if options.encryption is None:
        sharing = _will_share(candidate, image, geometry.granule, unit)
        small = geometry.granules == 1 and geometry.cluster_size < unit and options.data_file is None
        start = layout.data_offset if small else None
        taken = space_taken(
            image, data, sharing=sharing, unit=unit, known=known, file_start=start, written=lists.add_data
        )
        if options.data_file is not None and options.preallocation.reserves_blocks:
            taken = SpaceTaken(align_up(image.virtual_size, unit), 0)
    else:
        lists.add_data(data[:, 0], data[:, 0] + data[:, 1])
        taken = encrypted_space(extents, geometry.granule, image.virtual_size, unit)
    on_disk = overlay_disk_bytes(layout, extents, options, taken.data, unit) - taken.holes
    on_disk += lists.end(image.virtual_size)
    length = layout.file_size + (0 if options.data_file is None else image.virtual_size)
    return OverlaySize(length, 0, on_disk, taken.shared)


def least_savings(candidate: Candidate, image: Image, minimum: float) -> tuple[LeastSavings, Below]:
    """Return the savings below which a guest is skipped, and what it depends on now; ``minimum`` is a share."""
    if candidate.entry.rethin:
        # Another file with the same content may happen to need fewer blocks to list its extents, so savings of up
        # to the size of that list may be due to chance.
        chance = sum(list_bytes(each.fd, each.path) for each in image.own_files)
        return LeastSavings(minimum, chance + 1), Below.TEMPLATE
    return LeastSavings(minimum), Below.ANOTHER if candidate.entry.image.backing else Below.NOTHING


def _layout(candidate: Candidate, extents: Extents, template: ImageSource) -> AnyLayout:
    options = candidate.entry.options
    name = backing_name(candidate.entry.overlay_path, template.path, options.backing_path)
    return overlay_layout(extents, candidate.record.virtual_size, options, (name, template.format.value))


def _volume(candidate: Candidate, image: Image) -> Volume:
    folder = os.path.dirname(candidate.entry.overlay_path)
    try:
        return volume_of(folder, image.layers[0].fd)
    except OSError as error:
        why, remedy = explain(error, Deed.READ, folder)
        what = f"cannot access {folder}, the folder of its overlay"
        raise ImageError(what, why=why, remedy=remedy) from error


def _will_share(candidate: Candidate, image: Image, granule: int, unit: int) -> bool:
    """Return True if copying shares blocks: copy_file_range shares whole units only, within one filesystem."""
    device = os.stat(os.path.dirname(candidate.entry.overlay_path)).st_dev
    reserves = candidate.entry.options.preallocation.reserves_blocks
    return not reserves and granule % unit == 0 and device == os.fstat(image.layers[0].fd).st_dev


def _compressed_size(
    candidate: Candidate, layout: Layout, extents: Extents, volume: Volume, measure: Measure
) -> OverlaySize:
    geometry, level = layout.geometry, candidate.entry.options.compression_level
    stored = stored_data(candidate.entry.image, extents, geometry, measure, unit=volume.unit, level=level)
    packed = plan_layout(
        candidate.record.virtual_size,
        geometry,
        l2_tables=layout.l2_tables,
        data_clusters=ceil_div(stored.file_bytes, geometry.cluster_size),
    )
    lists = OverlayLists(packed, extents, volume, Preallocation.OFF)
    lists.add_packed(stored.disk_bytes)
    on_disk = disk_bytes(packed, stored.disk_bytes, volume.unit) + lists.end(candidate.record.virtual_size)
    return OverlaySize(packed.file_size, stored.error_bytes, on_disk)
