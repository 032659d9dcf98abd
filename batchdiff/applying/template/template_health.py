"""Check whether the template is still sound, for `batchdiff verify`; change nothing.

::

    proven by fingerprints or, on a block device, by the digest                    -> sound
    proven by the digest, although fingerprints have changed                       -> touched
    missing                      an overlay depends on it                          -> damaged
                                 none does                                         -> stale
    its content has changed      overlays are recorded for this plan               -> damaged
                                 overlays name it, but are not recorded            -> unknown
                                 no overlay depends on it                          -> stale
    nothing proves its content, or an error is inconclusive                        -> unknown
    any other error              an overlay depends on it                          -> damaged
                                 none does                                         -> unknown
"""

from __future__ import annotations

from collections.abc import Sequence

from batchdiff.applying.guests.recovery import has_template_as_backing_file
from batchdiff.applying.guests.whole_originals import originals_first
from batchdiff.applying.journal.records import History
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.template.check import begin_with_template, doubt, may_be_planned_again, require_content
from batchdiff.errors import (
    BatchdiffError,
    ImageError,
    MovedError,
    PlanError,
    SecretError,
    StopError,
    TemplateChangedError,
    is_caused_by,
    is_inconclusive,
)
from batchdiff.image.image import Image
from batchdiff.image.open import inspect, open_image
from batchdiff.linux.call_failures import AGAIN
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.progress import Meter
from batchdiff.units import few


def check_template(
    plan: Plan, history: History, converted: Sequence[GuestToConvert], stop: Stop, meter: Meter
) -> tuple[Finding, Health]:
    """Return the finding for the template, and the health of what a VM reads from it through an overlay.

    ``converted``: guests whose originals may be named as a way back.

    :raises StopError: a stop was requested.
    """
    path = plan.template.source.path
    try:
        with open_image(plan.template.source) as template:
            inspect(template)
            return _opened(plan, history, template, stop, meter), Health.SOUND
    except StopError:
        raise
    except BatchdiffError as error:
        health, reported = _judged(error, plan, history)
        if health is Health.DAMAGED or isinstance(error, PlanError):
            reported = originals_first(reported, converted, plan, history)
        content = Health.DAMAGED if isinstance(error, TemplateChangedError) else Health.UNKNOWN
        return Finding("template", path, health, str(reported)), content


def _opened(plan: Plan, history: History, template: Image, stop: Stop, meter: Meter) -> Finding:
    path = plan.template.source.path
    reason = doubt(template, plan, history)
    if not reason:
        return Finding("template", path, Health.SOUND, "as planned")
    report = begin_with_template(meter, template)
    require_content(template, plan, history, reason, check=stop.check, report=report)
    if not all(each.vouches_for_content for each in template.fingerprints()):
        return Finding("template", path, Health.SOUND, "its digest matches the plan")
    return Finding("template", path, Health.TOUCHED, f"{reason}; its digest shows that its content is unchanged")


def _judged(error: BatchdiffError, plan: Plan, history: History) -> tuple[Health, BatchdiffError]:
    is_changed = isinstance(error, TemplateChangedError)
    is_lacking_proof = isinstance(error, PlanError) and not is_changed
    if is_lacking_proof or isinstance(error, MovedError | SecretError) or is_inconclusive(error):
        return Health.UNKNOWN, error
    if history.published:
        return Health.DAMAGED, error if is_changed else _needed(error, "all overlays")
    overlays = [each.overlay_path for each in plan.to_convert if has_template_as_backing_file(each, plan)]
    if not overlays:
        return _of_unused(error, history)
    if is_changed:
        return Health.UNKNOWN, _of_unknown_plan(error, plan, overlays)
    return Health.DAMAGED, _needed(error, few(overlays))


def _of_unused(error: BatchdiffError, history: History) -> tuple[Health, BatchdiffError]:
    if isinstance(error, TemplateChangedError):
        return Health.STALE, error
    if not is_caused_by(error, FileNotFoundError, NotADirectoryError):
        return Health.UNKNOWN, error
    remedy = "Bring it back before you apply the plan. If it was moved, add `--map OLD=NEW` to this command."
    # After an original has been renamed, a new plan would not find it.
    if may_be_planned_again(history):
        remedy = f"{remedy} If it is lost, plan again with another template."
    why = f"{error.why}; no overlay of this plan depends on it, so none is damaged"
    return Health.STALE, ImageError(error.what, why=why, remedy=remedy)


def _needed(error: BatchdiffError, overlays: str) -> ImageError:
    is_missing = is_caused_by(error, FileNotFoundError, NotADirectoryError)
    remedy = "Bring it back, or add `--map OLD=NEW` if it was moved." if is_missing else error.remedy
    return ImageError(error.what, why=f"{error.why}; it is needed by {overlays}", remedy=remedy)


def _of_unknown_plan(error: BatchdiffError, plan: Plan, overlays: list[str]) -> TemplateChangedError:
    them, they_are = (
        ("that overlay", "the overlay is") if len(overlays) == 1 else ("those overlays", "the overlays are")
    )
    return TemplateChangedError(
        f"the content of the template {plan.template.source.path} changed",
        why=f"{error.why}; the template is the backing file of {few(overlays)}, and neither a journal nor a"
        f" sidecar shows whether this plan created {them}",
        remedy=f"If this plan did, {they_are} damaged: bring the template back from a backup, {AGAIN} Otherwise,"
        f" run `batchdiff verify` with the plan that created {them}.",
    )
