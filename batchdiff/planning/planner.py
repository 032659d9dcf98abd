"""Planning from manifest to plan: open, scan, fold, measure.

::

    manifest -> candidates -> ranges with data -> workers (scan) -> extents of 4 KiB units by guest
                    |               |                                    |
                    |           checkpoint (an interrupted scan)         |
                older plan ----------------> plan <- verdicts and savings <- folded to every cluster size
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

from batchdiff import __version__
from batchdiff.errors import ImageError
from batchdiff.files.descriptors import raise_descriptor_limit
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import inspect, open_image
from batchdiff.image.storage.copy_up import protecting
from batchdiff.image.storage.overlayfs import NOTHING, CopyUp
from batchdiff.image.storage.shared_blocks import has_shared_extents, shared_blocks
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import GuestPlan, Plan, PlannedImage
from batchdiff.plan.sidecar import (
    Sidecar,
    first_state,
    is_known_state,
    is_known_template,
    read_sidecar,
    sidecar_path,
)
from batchdiff.plan.totals import totals_of
from batchdiff.planning.assessment import AssessmentJob, FleetFacts
from batchdiff.planning.candidates import Candidate, Part, examine_guests, planned_image
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.overlay_content import ReusedOverlay
from batchdiff.planning.refined_guests import RefinedGuests
from batchdiff.planning.reuse_plan import reusable_overlays, why_unusable
from batchdiff.planning.scan.refine import Granules, RefineJob
from batchdiff.planning.scan.reopening import budget, files_of
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.planning.scan_all import Progress, ScanSettings, scan_guests
from batchdiff.planning.sharing_objections import can_be_shared, without_unshareable
from batchdiff.planning.sizes.compressed_estimate import Sample, SampleJob
from batchdiff.progress import ignore

if TYPE_CHECKING:  # it is needed only with --scheduler
    from batchdiff.planning.remote.remote_scan import RemoteScans

GENERATOR = f"batchdiff {__version__}"

_GUESTS_OF_A_WORKER = 8
"""The least number of guests for each of several workers: starting a worker can take as long as one assessment."""


@frozen
class EarlierResults:
    """The results of earlier runs."""

    checkpoint: Checkpoint | None = None
    older: Plan | None = None
    say: Callable[[str], None] = lambda _text: None
    plans: EarlierPlans = field(default_factory=EarlierPlans)


@frozen
class _Reused:
    """The template's digest, if it is known, and overlays by guest name."""

    digest: str | None
    overlays: dict[str, ReusedOverlay]


def make_plan(  # noqa: PLR0913  # options by keyword
    manifest: Manifest,
    *,
    jobs: int,
    opened: Callable[[int], None] = ignore,
    progress: Progress = lambda _done, _total: None,
    assessed: Callable[[str], None] = lambda _name: None,
    earlier: EarlierResults = EarlierResults(),  # noqa: B008  # it is frozen
    observer: ReadObserver | None = None,
    remote: RemoteScans | None = None,
) -> Plan:
    """Return the plan for all guests of a manifest.

    ``opened`` is called with a growing count of images; ``assessed``, with a guest's name.

    :raises ImageError: the template cannot be used, or is not that of the older plan.
    :raises UsageError: other hosts cannot scan, because the template is read through QEMU.
    :raises WorkerError: a worker fails, or other hosts cannot do the scan.
    """
    raise_descriptor_limit()
    opened(0)
    with open_image(manifest.template, observer=observer) as image:
        require_unused(image, Purpose.TEMPLATE)
        inspect(image, refcounts=True)
        template = planned_image(image)
        parts = examine_guests(manifest, template, earlier.plans, observer, opened)
        parts = without_unshareable(parts, image, observer)
        candidates = [part for part in parts if isinstance(part, Candidate)]
        sharing, sidecar = has_shared_extents(image), _sidecar(template)
        reused = _reuse(earlier, template, sidecar, candidates, sharing=sharing)
        refined = _refined_guests(image, candidates, reused, observer, progress)
        to_scan = {each.entry.name: each.record for each in candidates if each.entry.name not in reused.overlays}
        limits, further = budget(jobs, len(image.layers)), _further(opened, 1 + len(parts))
        settings = ScanSettings(
            limits, GENERATOR, refined.scanned, earlier.say, earlier.checkpoint, observer, further, remote
        )
        # Even without guests, the template is scanned if its digest is not known.
        scan = partial(scan_guests, image, _at_first(template, sidecar), to_scan, settings, sharing=sharing)
        findings = scan() if to_scan or reused.digest is None else Findings(sharing)
        settings.close()
        refined.run(findings, jobs=limits.jobs)
        # After this check, the results are known to belong to the recorded state of the template.
        _check_unchanged(image, template)
        digest = _digest(findings, template, reused, scanned_anything=bool(to_scan))
        facts = _facts(manifest, image, findings, observer)
        guests = _assess_guests(parts, findings, reused, facts, jobs=limits.jobs, assessed=assessed)
        copied = protecting(image) if manifest.protect_template else NOTHING
    return _plan(manifest, template, digest, guests, copied)


def _plan(
    manifest: Manifest, template: PlannedImage, digest: str, guests: tuple[GuestPlan, ...], copied: CopyUp
) -> Plan:
    return Plan(
        generator=GENERATOR,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        manifest_path=manifest.path,
        manifest_sha256=manifest.sha256,
        template=template,
        template_digest=digest,
        retire=manifest.retire,
        protect_template=manifest.protect_template,
        guests=guests,
        totals=totals_of(guests, manifest.retire, protecting=copied),
        left_out=tuple(guest.image for guest in manifest.left_out),
        minimum_savings=manifest.minimum_savings,
    )


def _facts(manifest: Manifest, template: Image, findings: Findings, observer: ReadObserver | None) -> FleetFacts:
    kept = shared_blocks(template) if findings.sharing else {}
    return FleetFacts(manifest, kept, findings.located, observer, can_be_shared(template))


def _refined_guests(
    template: Image,
    candidates: list[Candidate],
    reused: _Reused,
    observer: ReadObserver | None,
    progress: Progress,
) -> RefinedGuests:
    can_share = bool(reused.overlays) and can_be_shared(template)
    contents = {name: each.content for name, each in reused.overlays.items() if can_share}
    guests = {each.entry.name: each.record for each in candidates if each.entry.name in contents}
    granules = {name: Granules(each.extents, each.geometry.granule) for name, each in contents.items()}
    job = RefineJob(template.source, files_of(template), guests, granules, observer)
    return RefinedGuests(job, progress)


def _further(report: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda more: report(before + more)


def _at_first(template: PlannedImage, sidecar: Sidecar | None) -> PlannedImage:
    """Return a template with the earliest known fingerprints of its present content."""
    return replace(template, fingerprints=first_state(template.fingerprints, sidecar))


def _sidecar(template: PlannedImage) -> Sidecar | None:
    path = template.source.path
    return read_sidecar(sidecar_path(path, path))


def _reuse(
    earlier: EarlierResults,
    template: PlannedImage,
    sidecar: Sidecar | None,
    candidates: list[Candidate],
    *,
    sharing: bool,
) -> _Reused:
    older = earlier.older
    if older is None:
        return _Reused(None if candidates or sharing else _recorded_digest(template, sidecar), {})
    unchanged = is_known_state(older.template.fingerprints, template.fingerprints, sidecar)
    reason = why_unusable(older, template, unchanged=unchanged, sharing=sharing, generator=GENERATOR)
    if reason:
        earlier.say(f"Nothing is reused from the older plan: {reason}.")
        return _Reused(None, {})
    overlays = reusable_overlays(older, candidates)
    guests = "guest" if len(candidates) == 1 else "guests"
    earlier.say(f"Reusing the results of {len(overlays)} of {len(candidates)} {guests} from the older plan.")
    return _Reused(older.template_digest, overlays)


def _recorded_digest(template: PlannedImage, sidecar: Sidecar | None) -> str | None:
    """Return the sidecar's digest if it is known to be that of the template's present content."""
    if sidecar is None or sidecar.fingerprints != template.fingerprints or not template.vouches_for_content:
        return None
    return sidecar.digest or None


def _digest(findings: Findings, template: PlannedImage, reused: _Reused, *, scanned_anything: bool) -> str:
    if reused.digest is not None and not scanned_anything:
        return reused.digest
    digest = findings.digest(template.virtual_size)
    if reused.digest is not None and reused.digest != digest:
        raise ImageError(
            f"{template.source.path} is not the template that the older plan was made for",
            why="its content has a different digest, although its size and mtime are unchanged",
            remedy="Find out what changed it, and plan again without `--reuse`.",
        )
    return digest


def _check_unchanged(image: Image, before: PlannedImage) -> None:
    now = image.fingerprints()
    if not is_known_template(before, now):
        raise ImageError(
            "the template changed while the plan was being made",
            why=before.changes(now),
            remedy="Shut down the VM or program that changes it, and plan again.",
        )
    # A process that opened the template for writing meanwhile could change it right after the scan.
    require_unused(image, Purpose.TEMPLATE)


def _assess_guests(  # noqa: PLR0913  # options by keyword
    parts: list[Part],
    findings: Findings,
    reused: _Reused,
    facts: FleetFacts,
    *,
    jobs: int,
    assessed: Callable[[str], None],
) -> tuple[GuestPlan, ...]:
    by_name = {part.entry.name: part for part in parts if isinstance(part, Candidate)}
    # If there are few guests, they are assessed one after another, and all workers compress the samples of each.
    workers = jobs if len(by_name) >= jobs * _GUESTS_OF_A_WORKER else 1
    measure = partial(_compress_samples, jobs=jobs if workers == 1 else 1, observer=facts.observer)
    job = AssessmentJob(by_name, findings, facts, measure, reused.overlays)
    plans = {}
    for plan in run_tasks(job, by_name, workers=workers):
        findings.forget(plan.name)
        plans[plan.name] = plan
        assessed(plan.name)
    return tuple(plans[part.entry.name] if isinstance(part, Candidate) else part for part in parts)


def _compress_samples(samples: list[Sample], *, jobs: int, observer: ReadObserver | None) -> list[list[int]]:
    found = run_tasks(SampleJob(observer), enumerate(samples), workers=min(jobs, len(samples)))
    return [lengths for _, lengths in sorted(found)]
