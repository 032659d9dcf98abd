"""Applies a plan: checks what all guests rest on, then converts them one after the other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass

from batchdiff.applying.conversion import Conversion, Watch, convert
from batchdiff.applying.journal import Journal, Step
from batchdiff.applying.protection import note_interrupted, protect
from batchdiff.applying.space import check_space
from batchdiff.applying.staleness import check_unchanged
from batchdiff.applying.verification import require_judges
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import BatchdiffError, ImageError, PlanError, UsageError
from batchdiff.image.files import loop_file
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.model.manifest import Retire
from batchdiff.model.outcome import GuestOutcome, Status
from batchdiff.model.plan import GuestPlan, Plan, Verdict


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """What the operator chose. ``guests``: names, None for all."""

    retire: Retire
    verify: VerifyMode = VerifyMode.FULL
    guests: tuple[str, ...] | None = None


def apply_plan(plan: Plan, journal: Journal, options: ApplyOptions, watch: Watch) -> Iterator[GuestOutcome]:
    """Outcomes, guest by guest; one that fails does not stop the others.

    :raises UsageError: the options contradict each other or the plan.
    :raises PlanError: the plan is stale: the template changed.
    :raises ProgramError: qemu-img is needed and missing.
    :raises GuestError: a filesystem has not enough space.
    """
    guests = _chosen(plan, options)
    if options.retire is Retire.DELETE and options.verify is not VerifyMode.FULL:
        raise UsageError(
            "originals are only deleted after full verification",
            remedy="Leave `--verify` out, or use `--retire quarantine`.",
        )
    require_judges(options.verify)
    with open_image(plan.template.source) as template:
        run = Conversion(plan.template, journal, options.retire, options.verify, watch)
        note_interrupted(template, plan.template.fingerprints, journal)
        _check_template(template, run)
        inspect(template)
        _sync(template)
        pending = [
            guest for guest in guests if guest.verdict is Verdict.CONVERT and not _published(guest, journal)
        ]
        check_space(pending, options.retire)
        to_protect = plan.protect_template
        for guest in guests:
            outcome = _outcome(run, guest, template)
            if outcome.status in {Status.CONVERTED, Status.UNCHANGED} and to_protect:
                outcome = dataclasses.replace(outcome, notes=outcome.notes + _protected(template, journal))
                to_protect = False
            yield outcome


def _protected(template: Image, journal: Journal) -> tuple[str, ...]:
    try:
        return protect(template, journal)
    except OSError as error:  # the journal's disk is full, for one: that must not stop the other guests
        return (f"the template {template.path} may have kept its write permission ({error.strerror or error})",)


def _check_template(template: Image, run: Conversion) -> None:
    """Refuses a template that changed, and says what that means for overlays that are there already."""
    try:
        check_unchanged(template, run.template, run.template, run.journal)
    except PlanError as error:
        published = run.journal.published()
        if not published:
            raise
        raise PlanError(
            f"the template changed after overlays were put on it ({', '.join(published)})",
            why=error.why,
            remedy="If it was written to, they are damaged: start no VM on them, compare each with its original.",
        ) from error


def _sync(template: Image) -> None:
    """A template that was copied a moment ago must be on disk before anything rests on it alone."""
    for layer in template.layers:
        try:
            os.fsync(layer.fd)
        except OSError as error:
            raise ImageError(f"cannot make {layer.path} durable", why=error.strerror or str(error)) from error


def _chosen(plan: Plan, options: ApplyOptions) -> list[GuestPlan]:
    if options.guests is None:
        return list(plan.guests)
    names = {guest.name for guest in plan.guests}
    unknown = [name for name in options.guests if name not in names]
    if unknown:
        raise UsageError(
            f"no guest of the plan is called {', '.join(unknown)}",
            remedy=f"There are: {', '.join(sorted(names))}.",
        )
    return [guest for guest in plan.guests if guest.name in options.guests]


def _published(guest: GuestPlan, journal: Journal) -> bool:
    standing = journal.standing(guest.name)
    return standing is not None and standing.step in {Step.PUBLISHED, Step.RETIRED}


def _outcome(run: Conversion, guest: GuestPlan, template: Image) -> GuestOutcome:
    if guest.verdict is not Verdict.CONVERT:
        skipped = guest.verdict is Verdict.SKIP
        status = Status.SKIPPED if skipped else Status.REFUSED
        return GuestOutcome(guest.name, status, guest.reason, exit_code=0 if skipped else 1)
    try:
        _check_not_the_template(guest, template)
        return convert(run, guest)
    except BatchdiffError as error:
        return GuestOutcome(guest.name, Status.FAILED, str(error), exit_code=error.exit_code)


def _check_not_the_template(guest: GuestPlan, template: Image) -> None:
    """A plan is input like any other: whatever it says, the template is no guest."""
    if os.path.lexists(guest.source.path):
        info = os.lstat(guest.source.path)
        kept = {(stat_.st_dev, stat_.st_ino) for stat_ in (os.fstat(layer.fd) for layer in template.layers)}
        under_loops = {loop_file(layer.path) for layer in template.layers}
        if (info.st_dev, info.st_ino) in kept or os.path.realpath(guest.source.path) in under_loops:
            raise PlanError(f"guest {guest.name} is the template, or below it", remedy="Plan again.")
