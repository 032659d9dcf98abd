"""Planning from manifest to plan: open, scan, fold, measure. Nothing is written but the checkpoint.

::

    manifest -> candidates -> ranges with data -> pool (scan) -> extents of 4 KiB units by guest
                    |               |                                 |
                    |           checkpoint (an interrupted scan)      |
                older plan ----------------> plan <- verdicts and savings <- folded to every cluster size
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from batchdiff import __version__
from batchdiff.errors import ImageError
from batchdiff.files.descriptors import raise_descriptor_limit
from batchdiff.image.files import settle_reads
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import inspect, open_image
from batchdiff.image.storage.copy_up import protecting
from batchdiff.image.storage.overlayfs import NOTHING
from batchdiff.image.storage.shared_blocks import has_shared_extents, shared_blocks
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.known_states import first_state, is_known_state
from batchdiff.plan.plan import GuestPlan, Plan, PlannedImage
from batchdiff.plan.sidecar import Sidecar, read_sidecar, sidecar_path
from batchdiff.plan.totals import totals_of
from batchdiff.planning.assessment import Exact, Premises, assessed, dismissed, reassessed
from batchdiff.planning.candidates import Candidate, Dismissed, examine_guests, planned
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.resume import vouches
from batchdiff.planning.reuse_plan import exact_parts, objection
from batchdiff.planning.scan.reopening import budget
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.planning.scan_all import Course, Progress, scanned
from batchdiff.planning.sizes.compressed_estimate import Sample, stored_lengths

GENERATOR = f"batchdiff {__version__}"

_GUESTS_OF_A_WORKER = 8
"""Starting a worker takes as long as assessing one or two guests with a few thousand differences."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The results of earlier runs: the checkpoint of an interrupted scan, and an older plan.

    ``say`` is called with a notice of what is reused; ``plans`` finds the plans that converted guests.
    """

    checkpoint: Checkpoint | None = None
    older: Plan | None = None
    say: Callable[[str], None] = lambda _text: None
    plans: EarlierPlans = field(default_factory=EarlierPlans)


@dataclass(frozen=True, slots=True)
class _Taken:
    """The digest and the parts of an older plan that are still exact, the parts by the number of the candidate."""

    digest: str | None
    parts: dict[int, Exact]


def make_plan(
    manifest: Manifest,
    *,
    jobs: int,
    progress: Progress = lambda _done, _total: None,
    earlier: Earlier = Earlier(),
) -> Plan:
    """Return the plan for all guests of a manifest; it has the reason for each guest that cannot be converted.

    :raises ImageError: the template cannot be read, is in use, or changed during the scan.
    :raises WorkerError: a worker process died.
    """
    raise_descriptor_limit()
    with open_image(manifest.template) as image:
        require_unused(image, Purpose.TEMPLATE)
        inspect(image)
        template = planned(image)
        parts = examine_guests(manifest, template, earlier.plans)
        candidates = [part for part in parts if isinstance(part, Candidate)]
        sharing = has_shared_extents(image)
        sidecar = _sidecar(template)
        taken = _taken_over(earlier, template, sidecar, candidates, sharing=sharing)
        unknown = [candidate for number, candidate in enumerate(candidates) if number not in taken.parts]
        course = Course(budget(jobs, len(image.layers)), GENERATOR, progress, earlier.say, earlier.checkpoint)
        # The template is scanned even without guests, if nothing else has its digest.
        if unknown or taken.digest is None:
            first = replace(template, fingerprints=first_state(template.fingerprints, sidecar))
            findings = scanned(image, first, unknown, course, sharing=sharing)
        else:
            findings = Findings(sharing)
        # From here on, the results are known to belong to the recorded state of the template.
        _check_unchanged(image, template)
        digest = _digest(findings, template, taken, scanned_anything=bool(unknown))
        premises = Premises(manifest, shared_blocks(image) if sharing else {}, findings.located)
        guests = _guest_plans(parts, findings, taken, premises, course.budget.jobs)
        copied = protecting(image) if manifest.protect_template else NOTHING
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
    )


def _sidecar(template: PlannedImage) -> Sidecar | None:
    path = template.source.path
    return read_sidecar(sidecar_path(path, path))


def _taken_over(
    earlier: Earlier,
    template: PlannedImage,
    sidecar: Sidecar | None,
    candidates: list[Candidate],
    *,
    sharing: bool,
) -> _Taken:
    older = earlier.older
    if older is None:
        return _Taken(None if candidates or sharing else _recorded_digest(template, sidecar), {})
    unchanged = is_known_state(older.template.fingerprints, template.fingerprints, sidecar)
    reason = objection(older, template, unchanged=unchanged, sharing=sharing, generator=GENERATOR)
    if reason:
        earlier.say(f"Nothing is reused from the older plan: {reason}.")
        return _Taken(None, {})
    parts = exact_parts(older, candidates)
    earlier.say(f"{len(parts)} of {len(candidates)} guests are reused from the older plan.")
    return _Taken(older.template_digest, parts)


def _recorded_digest(template: PlannedImage, sidecar: Sidecar | None) -> str | None:
    """Return the template's digest from its sidecar, so that it need not be read if no guest is to be compared."""
    if sidecar is None or sidecar.fingerprints != template.fingerprints or not vouches(template):
        return None
    return sidecar.digest or None


def _digest(findings: Findings, template: PlannedImage, taken: _Taken, *, scanned_anything: bool) -> str:
    if taken.digest is not None and not scanned_anything:
        return taken.digest
    digest = findings.digest(template.virtual_size)
    if taken.digest is not None and taken.digest != digest:
        raise ImageError(
            f"{template.source.path} is not the template that the older plan was made from",
            why="its content has another digest, although its times and size are unchanged",
            remedy="Find out what changed it, and plan again without `--reuse`.",
        )
    return digest


def _check_unchanged(image: Image, before: PlannedImage) -> None:
    now = image.fingerprints()
    # Another plan on the template may have been applied meanwhile, which takes its write permission.
    if not is_known_state(before.fingerprints, now, _sidecar(before)):
        raise ImageError(
            "the template changed while it was scanned",
            why=before.changes(now),
            remedy="Shut down the VM or program that writes to it, and plan again.",
        )
    # A process that opened it for writing meanwhile could change it right after the scan.
    require_unused(image, Purpose.TEMPLATE)


def _guest_plans(
    parts: list[Candidate | Dismissed],
    findings: Findings,
    taken: _Taken,
    premises: Premises,
    jobs: int,
) -> tuple[GuestPlan, ...]:
    candidates = [part for part in parts if isinstance(part, Candidate)]
    scanned = [number for number in range(len(candidates)) if number not in taken.parts]
    # A few guests are assessed one after the other, and all workers compress the samples of each.
    workers = jobs if len(scanned) >= jobs * _GUESTS_OF_A_WORKER else 1
    measure = partial(_measured, jobs=jobs if workers == 1 else 1)

    def assess(unknown: int) -> tuple[int, GuestPlan]:
        candidate, failure = candidates[scanned[unknown]], findings.failures.get(unknown)
        return unknown, assessed(candidate, findings.compared(unknown), failure, premises, measure)

    def described(unknown: int) -> str:
        return f"computing the savings of guest {candidates[scanned[unknown]].entry.name}"

    plans = {number: reassessed(candidates[number], part, premises) for number, part in taken.parts.items()}
    for unknown, plan in run_tasks(lambda: assess, iter(range(len(scanned))), jobs=workers, describe=described):
        findings.forget(unknown)
        plans[scanned[unknown]] = plan
    numbers = iter(range(len(candidates)))
    return tuple(dismissed(part) if isinstance(part, Dismissed) else plans[next(numbers)] for part in parts)


def _measured(samples: list[Sample], *, jobs: int) -> list[list[int]]:
    found = run_tasks(lambda: _numbered, iter(enumerate(samples)), jobs=min(jobs, len(samples)), describe=_sampled)
    return [lengths for _, lengths in sorted(found)]


def _numbered(task: tuple[int, Sample]) -> tuple[int, list[int]]:
    number, sample = task
    lengths = stored_lengths(sample)
    settle_reads()
    return number, lengths


def _sampled(task: tuple[int, Sample]) -> str:
    return f"compressing a sample of {task[1].source.path}"
