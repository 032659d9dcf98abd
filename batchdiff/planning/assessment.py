"""A guest's part of the plan, from its differences: cluster size, savings, verdict and its reason."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from batchdiff.errors import GuestError, ImageError
from batchdiff.extents import Extents, Kind
from batchdiff.image.files import settle_reads
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.storage.allocation import DiskUse, disk_use
from batchdiff.image.storage.allocation_units import Volume, volume_of
from batchdiff.image.storage.block_ranges import NO_BLOCKS, Blocks
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.shared_blocks import located
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.plan.extents import runs_of
from batchdiff.plan.overlay_options import Compression, OverlayOptions, backing_name, geometry_of
from batchdiff.plan.plan import GuestPlan, PlannedImage, Savings, Similarity, Verdict, why_unlike
from batchdiff.plan.runs import NO_RUNS
from batchdiff.planning.candidates import Candidate, Dismissed
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.reopening import reopened
from batchdiff.planning.sizes.compressed_estimate import Measure, stored_data
from batchdiff.planning.sizes.disk_use import taken_bytes
from batchdiff.planning.sizes.overlay_sizes import (
    chosen_cluster_size,
    disk_bytes,
    extents_to_write,
    savings_of,
    sizes_by_cluster_size,
)
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.layout import Layout, header_for, layout_for, plan_layout
from batchdiff.units import ceil_div, format_size


def dismissed(part: Dismissed) -> GuestPlan:
    """Return the part of a guest that was not compared."""
    return _guest_plan(part.entry, part.record, part.verdict, part.reason)


_WORTH_NAMING = 0.1
"""The share of a guest's allocation that another cluster size must save to be suggested: this estimate is by file
size, which differs a little from the space taken on disk."""

Packed = tuple[int, int, int]
"""Bytes of a compressed overlay's file, their possible error, and bytes on disk."""


@dataclass(frozen=True, slots=True)
class Premises:
    """The common input for all guests: the manifest, and the template's blocks that other files share, by device.

    These blocks stay in use, whatever happens to a guest. ``located``: the extents of some guests, by path.
    """

    manifest: Manifest
    kept: Mapping[int, Blocks]
    located: Mapping[str, ExtentTable]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an overlay, in granules, and the file's size with each cluster size."""

    cluster_size: int
    extents: Extents
    sizes: dict[int, int]
    similarity: Similarity | None


@dataclass(frozen=True, slots=True)
class Exact:
    """The findings of an older plan that are still exact: the content, and the bytes of the overlay."""

    content: Content
    packed: Packed


def assessed(
    candidate: Candidate,
    compared: tuple[Extents, Similarity],
    failure: ImageError | None,
    premises: Premises,
    measure: Measure,
) -> GuestPlan:
    """Return the part of a guest that was compared, or whose scan failed."""
    if failure is not None:
        return _refused(candidate, str(failure))

    def found(image: Image) -> GuestPlan:
        content = _content(*compared, candidate.record.virtual_size, candidate.entry.options)
        return _measured(candidate, image, content, premises, partial(_compressed, candidate, measure=measure))

    return _unless_changed(candidate, found)


def reassessed(candidate: Candidate, exact: Exact, premises: Premises) -> GuestPlan:
    """Return the part of a guest whose extents an older plan has; savings, verdict and paths are new."""

    def found(image: Image) -> GuestPlan:
        return _measured(candidate, image, exact.content, premises, lambda _layout, _extents, _unit: exact.packed)

    return _unless_changed(candidate, found)


def _unless_changed(candidate: Candidate, found: Callable[[Image], GuestPlan]) -> GuestPlan:
    try:
        with reopened(candidate.record) as image:
            require_unused(image, Purpose.GUEST)  # again: a VM may have started meanwhile
            plan = found(image)
            settle_reads()
            return plan
    except (GuestError, ImageError, FormatError) as error:
        return _refused(candidate, str(error))


def _refused(candidate: Candidate, reason: str) -> GuestPlan:
    return _guest_plan(candidate.entry, candidate.record, Verdict.REFUSE, reason)


def _content(units: Extents, similarity: Similarity, virtual_size: int, options: OverlayOptions) -> Content:
    sizes = sizes_by_cluster_size(units, virtual_size, options)
    cluster_size = options.cluster_size or chosen_cluster_size(sizes)
    if cluster_size not in sizes:
        raise FormatError(
            f"clusters of {format_size(cluster_size)} cannot map a disk of {format_size(virtual_size)};"
            f" choose {format_size(min(sizes))} or more"
        )
    extents = extents_to_write(units, virtual_size, options, geometry_of(options, cluster_size))
    return Content(cluster_size, extents, sizes, similarity)


def _measured(
    candidate: Candidate,
    image: Image,
    content: Content,
    premises: Premises,
    packed: Callable[[Layout, Extents, int], Packed],
) -> GuestPlan:
    entry, virtual_size = candidate.entry, candidate.record.virtual_size
    options, extents = dataclasses.replace(entry.options, cluster_size=content.cluster_size), content.extents
    geometry = geometry_of(options, content.cluster_size)
    layout = layout_for(extents, virtual_size, geometry)
    name = backing_name(entry.overlay_path, premises.manifest.template.path, options.backing_path)
    # Called for its checks: it refuses a name or layout that does not fit into a header.
    header_for(layout, virtual_size, backing=(name, premises.manifest.template.format))
    fd = image.layers[0].fd
    volume = _volume(candidate, image)
    known = premises.located.get(image.path) or located(image)
    if options.compression is Compression.NONE:
        # copy_file_range shares blocks that other files share already: they stay in use anyway, so the overlay's
        # reference to them costs nothing. It shares only whole units, so clusters must not be smaller.
        sharing = geometry.granule % volume.unit == 0 and _on_one_filesystem(candidate, image)
        data = extents.pairs(Kind.DATA) * geometry.granule
        found = taken_bytes(image, data, sharing=sharing, unit=volume.unit, known=known)
        overlay, free = (layout.file_size, 0, disk_bytes(layout, found.data, volume.unit)), found.shared
    else:
        overlay, free = packed(layout, extents, volume.unit), 0
    use = disk_use(fd, image.path, kept=premises.kept.get(os.fstat(fd).st_dev, NO_BLOCKS), known=known)
    savings = savings_of(guest=use, volume=volume, overlay=overlay, sizes=content.sizes, shared=free)
    verdict, reason = _verdict(savings, use, premises.manifest.minimum_savings, content)
    plan = _guest_plan(entry, candidate.record, verdict, reason)
    data_runs, zero_runs = runs_of(extents)
    return dataclasses.replace(
        plan,
        options=options,
        unit=geometry.granule,
        data=data_runs,
        zero=zero_runs,
        savings=savings,
        similarity=content.similarity,
    )


def _volume(candidate: Candidate, image: Image) -> Volume:
    folder = os.path.dirname(candidate.entry.overlay_path)
    try:
        return volume_of(folder, image.layers[0].fd)
    except OSError as error:
        raise ImageError(
            f"cannot access {folder}, the folder of its overlay",
            why=error.strerror or str(error),
            remedy="Create the folder, or correct `overlay: {path: ...}`.",
        ) from error


def _on_one_filesystem(candidate: Candidate, image: Image) -> bool:
    device = os.stat(os.path.dirname(candidate.entry.overlay_path)).st_dev
    return device == os.fstat(image.layers[0].fd).st_dev


def _compressed(candidate: Candidate, layout: Layout, extents: Extents, unit: int, measure: Measure) -> Packed:
    geometry = layout.geometry
    stored = stored_data(candidate.entry.image, extents, geometry, measure, unit=unit)
    packed = plan_layout(
        candidate.record.virtual_size,
        geometry,
        l2_tables=layout.l2_tables,
        data_clusters=ceil_div(stored.file_bytes, geometry.cluster_size),
    )
    return packed.file_size, stored.error_bytes, disk_bytes(packed, stored.disk_bytes, unit)


def _verdict(savings: Savings, use: DiskUse, minimum: float, content: Content) -> tuple[Verdict, str]:
    share = savings.saved_bytes / savings.allocated_bytes if savings.allocated_bytes else 0.0
    if savings.saved_bytes <= 0:
        if use.reclaimable == 0 < use.allocated:
            return Verdict.SKIP, f"deleting it would free nothing: {use.note}"
        if unlike := why_unlike(content.similarity):
            return Verdict.SKIP, unlike
        would = "would" if savings.exactness in {Exactness.EXACT, Exactness.AT_MOST} else "might"
        better = _better_clusters(savings, content, max(minimum, _WORTH_NAMING))
        return Verdict.SKIP, f"its overlay {would} not be smaller than the guest is now{better}"
    if share < minimum:
        digits = 1 if f"{share:.1%}" != f"{minimum:.1%}" else 4
        return (
            Verdict.SKIP,
            f"it would save {share:.{digits}%}, which is below the minimum of {minimum:.{digits}%}",
        )
    return Verdict.CONVERT, ""


def _better_clusters(savings: Savings, content: Content, least: float) -> str:
    """Return a suggestion of clusters that would save that share, as the end of a sentence, or nothing."""
    auto = chosen_cluster_size(content.sizes)
    saved = savings.reclaimable_bytes - content.sizes[auto]
    if auto == content.cluster_size or saved < least * savings.allocated_bytes:
        return ""
    return (
        f"; with clusters of {format_size(auto)} it would save about {format_size(saved)}:"
        " `overlay: {cluster_size: auto}`"
    )


def _guest_plan(entry: GuestEntry, image: PlannedImage | None, verdict: Verdict, reason: str) -> GuestPlan:
    return GuestPlan(
        name=entry.name,
        source=entry.image,
        image=image,
        verdict=verdict,
        reason=reason,
        overlay_path=entry.overlay_path,
        options=entry.options,
        unit=entry.options.cluster_size or UNIT,
        data=NO_RUNS,
        zero=NO_RUNS,
        savings=None,
        alias="" if entry.named in {"", entry.image.path} else entry.named,
    )
