"""Find templates and their copies.

::

    files -> sampling_job -> SampledImages -> SampleIndex -> Grouping: templates -> Placement: copies
               |                                                                     |
               `-> overlays, damaged images and others: left out                     `-> unlike: left out, too
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from batchdiff.discovery.copies import Group, Placement
from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.grouping import ChosenTemplate, Grouping, Trait
from batchdiff.discovery.image_files import FileSearch
from batchdiff.discovery.sample_index import SampleIndex
from batchdiff.discovery.sampled_image import Examined, ExistingOverlay, SampledImage, Sampling
from batchdiff.discovery.samples import SampleShape
from batchdiff.discovery.sampling_job import SamplingJob
from batchdiff.errors import ImageError
from batchdiff.files.descriptors import raise_descriptor_limit
from batchdiff.files.identity import Identity, identity_of
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver
from batchdiff.linux.block_stack import underlying
from batchdiff.linux.device_names import image_path
from batchdiff.manifest.names import default_overlay
from batchdiff.plan.sidecar import read_sidecar, sidecar_path
from batchdiff.planning.scan.workers import run_tasks

_OUTCOME = "No image was changed, and no manifest was written."


@frozen
class Discovery:
    """The groups, those that save most first, and the files and folders left out, sorted by path.

    ``images``: how many were compared. ``ignored``: how many files do not look like images.
    """

    groups: tuple[Group, ...]
    exclusions: tuple[Exclusion, ...]
    images: int
    reads: int
    read_bytes: int
    ignored: int


def discover(  # noqa: PLR0913  # options by keyword
    search: FileSearch,
    *,
    shape: SampleShape,
    jobs: int,
    templates: Collection[str] = (),
    sampled: Callable[[str, int], None] = lambda _path, _read: None,
    observer: ReadObserver | None = None,
) -> Discovery:
    """Find the templates among the files of a search, and their copies.

    ``templates``: the paths, as :func:`image_path` returns them, of the only images that may be templates; empty
    if any image may be one. ``sampled``: called when a file is done, with its path and the number of bytes
    that were read.

    :raises ImageError: one of ``templates`` cannot be used.
    :raises WorkerError: the sampling could not be completed.
    """
    raise_descriptor_limit()
    files = tuple(search.files)
    job = SamplingJob(files, shape, observer)
    by_number: dict[int, Sampling] = {}
    workers = max(min(jobs, len(files)), 1)
    for number, sampling in run_tasks(job, range(len(files)), workers=workers, outcome=_OUTCOME):
        by_number[number] = sampling
        sampled(files[number].path, sampling.read_bytes)
    examined = [by_number[number].examined for number in range(len(files))]
    kept = _without_shown_files(_without_parts(examined))
    paths = _by_identity((each.path, each.path) for each in kept if not isinstance(each, Exclusion))
    all_examined = [
        replace(each, backing=_known_as(each.backing, paths)) if isinstance(each, ExistingOverlay) else each
        for each in kept
    ]
    backing = {each.backing: each.path for each in all_examined if isinstance(each, ExistingOverlay)}
    images, exclusions = _with_roles(all_examined, backing, _converted(all_examined, paths))
    _check_given(templates, images, [*search.exclusions, *exclusions])
    given = {number: None for number, each in enumerate(images) if each.path in templates}
    groups, unplaced = _groups(images, shape.probe_bits, given, backing)
    return Discovery(
        tuple(groups),
        tuple(sorted([*search.exclusions, *exclusions, *unplaced], key=lambda each: each.path)),
        images=len(images),
        reads=sum(each.reads for each in by_number.values()),
        read_bytes=sum(each.read_bytes for each in by_number.values()),
        ignored=search.ignored,
    )


def _without_parts(examined: Sequence[Examined]) -> list[Examined]:
    images = [each for each in examined if isinstance(each, SampledImage)]
    owners = _by_identity((path, each.path) for each in images for path in each.source.other_files)

    def kept(each: Examined) -> Examined:
        owner = owners.get(identity_of(each.path)) if owners else None
        return each if owner is None else Exclusion(each.path, Cause.PART, f"it is part of {owner}")

    return [kept(each) for each in examined]


def _without_shown_files(examined: Sequence[Examined]) -> list[Examined]:
    """Exclude block devices whose bytes are stored in another sampled image."""
    images = [each for each in examined if isinstance(each, SampledImage)]
    if not any(each.is_device for each in images):
        return list(examined)
    owners = {identity_of(each.path): each.path for each in images}

    def kept(each: Examined) -> Examined:
        if not isinstance(each, SampledImage) or not each.is_device:
            return each
        below = underlying(each.path).files - {identity_of(each.path)}
        shown = sorted(owners[identity] for identity in below if identity in owners)
        return Exclusion(each.path, Cause.SAME_FILE, f"its bytes are stored in {shown[0]}") if shown else each

    return [kept(each) for each in examined]


def _by_identity(values: Iterable[tuple[str, str]]) -> dict[Identity | None, str]:
    found = {identity_of(path): value for path, value in values}
    found.pop(None, None)
    return found


def _known_as(path: str, paths: Mapping[Identity | None, str]) -> str:
    """Return the path at which the file or device at ``path``, or else a file below the device, was examined.

    If none of them was examined, return ``path``. Links, device nodes and bind mounts give one file several paths.
    """
    shown = sorted(paths[each] for each in underlying(path).files if each in paths)
    return paths.get(identity_of(path), next(iter(shown), path))


def _converted(examined: Iterable[Examined], paths: Mapping[Identity | None, str]) -> dict[str, tuple[str, str]]:
    """Return, by the path of each original that a sidecar records, its overlay and template."""
    sidecars = {
        sidecar_path(each.backing, each.path): each.backing
        for each in examined
        if isinstance(each, ExistingOverlay)
    } | {sidecar_path(each.path, each.path): each.path for each in examined if isinstance(each, SampledImage)}
    found: dict[str, tuple[str, str]] = {}
    for path, template in sidecars.items():
        sidecar = read_sidecar(path)
        for overlay, origin in sidecar.overlays.items() if sidecar is not None else ():
            # If an overlay has taken its original's path, there is no original there.
            if origin.original and origin.original != overlay and os.path.lexists(overlay):
                found[_known_as(origin.original, paths)] = overlay, template
    return found


def _with_roles(
    examined: Sequence[Examined], backing: Mapping[str, str], converted: Mapping[str, tuple[str, str]]
) -> tuple[list[SampledImage], list[Exclusion]]:
    below = {each.path: each.backing for each in examined if isinstance(each, ExistingOverlay)}
    images: list[SampledImage] = []
    exclusions: list[Exclusion] = []
    for each in examined:
        if isinstance(each, ExistingOverlay):
            chain = _chain(each.path, below)
            why = f"it is already an overlay on {' on '.join(chain)}"
            exclusions.append(Exclusion(each.path, Cause.OVERLAY, why, template=chain[-1]))
        elif isinstance(each, Exclusion):
            exclusions.append(each)
        elif not len(each.samples.hashes):
            why = "no data was found in its samples" if each.samples.level else "it has no data"
            exclusions.append(Exclusion(each.path, Cause.EMPTY, why))
        elif (above := backing.get(each.path)) is not None and not each.not_a_guest:
            why = f"it is the backing file of {above}, which would be lost without it"
            images.append(replace(each, not_a_guest=why))
        elif each.path not in backing and (made := _overlay_of(each.path, below, converted)) is not None:
            overlay, template = made
            # Originals beside their overlays get the same words, so that a report can list them together.
            which = "the overlay beside it" if overlay == default_overlay(each.path, ()) else overlay
            why = f"it seems to be the original of {which}, which a VM may already be using"
            exclusions.append(Exclusion(each.path, Cause.UNUSABLE, why, template=template))
        else:
            images.append(each)
    return images, exclusions


def _overlay_of(
    path: str, below: Mapping[str, str], converted: Mapping[str, tuple[str, str]]
) -> tuple[str, str] | None:
    """Return the probable overlay of an image, if any, and the overlay's template."""
    overlay = default_overlay(path, ())
    return (overlay, below[overlay]) if overlay in below else converted.get(path)


def _chain(path: str, below: Mapping[str, str]) -> list[str]:
    chain = [below[path]]
    while (backing := below.get(chain[-1])) is not None and backing not in {path, *chain}:
        chain.append(backing)
    return chain


def _check_given(
    templates: Collection[str], images: Sequence[SampledImage], exclusions: Sequence[Exclusion]
) -> None:
    known = {each.path for each in images}
    for path in templates:
        if path not in known:
            # An exclusion can have the path of a symbolic link.
            resolved = {image_path(each.path): each for each in exclusions}
            found = (resolved | {each.path: each for each in exclusions}).get(path)
            name, why = (path, "it was not found") if found is None else (found.path, found.reason.rstrip("."))
            raise ImageError(
                f"cannot use {name} as the template", path=name, why=why, remedy="Name another template."
            )


def _groups(
    images: Sequence[SampledImage], probe_bits: int, given: Mapping[int, None], backing: Collection[str]
) -> tuple[list[Group], list[Exclusion]]:
    index = SampleIndex([each.samples for each in images], probe_bits)
    traits = [
        Trait(each.virtual_size, each.path in backing, each.read_only, each.modified_ns, each.allocated, each.path)
        for each in images
    ]
    grouping = Grouping(index, traits)
    templates: dict[int, ChosenTemplate | None] = dict(given)
    if not given:
        templates = {choice.template: choice for choice in grouping.templates()}
    return Placement(images, index, grouping).groups(templates)
