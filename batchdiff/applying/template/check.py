"""Decide whether the template still has the planned content, on which everything depends.

::

    fingerprints as planned, or as batchdiff itself left them   -> the planned content
    fingerprints that a sidecar records for that content        -> the planned content
    anything else, and any block device                         -> the template's digest decides
"""

from __future__ import annotations

import os
from collections.abc import Callable

from batchdiff.applying.checks.staleness import PLAN_AGAIN, without_own_changes
from batchdiff.applying.guests.whole_originals import template_needed
from batchdiff.applying.journal.records import Goal, History
from batchdiff.applying.session.session import Run
from batchdiff.errors import ImageError, PlanError, TemplateChangedError
from batchdiff.image.content_digest import content_digest
from batchdiff.image.image import Image
from batchdiff.image.open import inspect
from batchdiff.linux.call_failures import AGAIN, explain
from batchdiff.linux.permissions import Deed
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import Chain, Sidecar, sidecar_paths, sidecars_of
from batchdiff.progress import Meter, Phase, ignore
from batchdiff.units import few


def accept_template(run: Run) -> None:
    """Accept the template of a run if its content is as planned, and begin the run's progress.

    The meter must already expect all other work.

    :raises PlanError: its content is not provably as planned, or it changes meanwhile.
    :raises ImageError: it is damaged or cannot be read.
    :raises StopError: a stop was requested.
    """
    plan, template, history = run.session.plan, run.template, run.journal.history
    run.check_template()  # from here on a change is noticed, even while the digest is taken
    with template_needed(plan, history):
        reason = doubt(template, plan, history)
        report = begin_with_template(run.session.meter, template if reason else None)
        if reason:
            require_content(template, plan, history, reason, check=run.stop.check, report=report)
            run.check_template()
        inspect(template)


def begin_with_template(meter: Meter, template: Image | None, times: int = 1) -> Callable[[int], None]:
    """Begin a command's progress; return a function that reports the bytes of the template read so far.

    ``template``: None if it is not read first. ``times``: the number of readings; call this function before each.
    """
    if template is not None:
        meter.expect(None, Phase.TEMPLATE, template.virtual_size * times)
    before = meter.reached(None, Phase.TEMPLATE)
    meter.begin()
    return lambda done: meter.reach(None, Phase.TEMPLATE, before + done)


def doubt(template: Image, plan: Plan, history: History) -> str:
    """Return why fingerprints do not prove the planned content; empty if they do."""
    now, planned = template.fingerprints(), plan.template.fingerprints
    if template.virtual_size != plan.template.virtual_size:
        return f"its virtual size changed from {plan.template.virtual_size} to {template.virtual_size} bytes"
    if not all(each.vouches_for_content for each in now):
        return (
            "it is, or depends on, a block device, whose size and device number do not show whether the content"
            " changed"
        )
    changes = plan.template.changes(without_own_changes(planned, now, history))
    if not changes or any(_is_known(sidecar, now, plan) for sidecar in sidecars_of(plan)):
        return ""
    return changes


def _is_known(sidecar: Sidecar, now: Chain, plan: Plan) -> bool:
    if sidecar.fingerprints != now:
        return False
    same_digest = bool(plan.template_digest) and sidecar.digest == plan.template_digest
    return same_digest or plan.template.fingerprints in (*sidecar.earlier, sidecar.fingerprints)


def require_content(  # noqa: PLR0913  # options by keyword
    template: Image,
    plan: Plan,
    history: History,
    reason: str,
    *,
    check: Callable[[], None],
    report: Callable[[int], None] = ignore,
) -> None:
    """Read a template and compare its digest with the planned one.

    ``reason``: why that is necessary, as a clause. ``check`` is called every few MiB; it may raise an error.
    ``report`` is called with the bytes done so far, read or skipped.

    :raises TemplateChangedError: the digests differ.
    :raises PlanError: the planned digest is not known.
    :raises ImageError: the template cannot be read.
    """
    known, path = known_digest(plan), plan.template.source.path
    if not known:
        is_other = template.virtual_size != plan.template.virtual_size
        raise PlanError(
            f"the template {path} is not as planned"
            if is_other
            else f"cannot determine whether the template {path} is still as planned",
            why=f"{reason}; the plan has no digest of the template, because the template shared blocks with other"
            " files when the plan was made",
            remedy=_without_digest(plan, history),
        )
    if content_digest(template, check=check, report=report) == known:
        return
    # Once overlays are published, planning again cannot help: they need the old content.
    if history.published:
        raise TemplateChangedError(
            f"the content of the template {path} changed after overlays were created on it",
            why=f"{reason}; its digest differs from the planned one, so {_damaged(history)}",
            remedy=f"Bring the template back from a backup, {AGAIN}",
        )
    raise TemplateChangedError(
        f"the plan is stale, because the content of the template {path} changed",
        why=f"{reason}; its digest differs from the planned one",
        remedy=PLAN_AGAIN if may_be_planned_again(history) else f"Bring the template back from a backup, {AGAIN}",
    )


def _damaged(history: History) -> str:
    guests = few(sorted(history.published))
    if len(history.published) == 1:
        return f"the overlay of {guests} is damaged; do not start a VM on it"
    return f"the overlays of {guests} are damaged; do not start a VM on them"


def may_be_planned_again(history: History) -> bool:
    """Return whether planning again would lose nothing."""
    return not any(each.published or each.moved or each.goal is not Goal.APPLY for each in history.states.values())


def _without_digest(plan: Plan, history: History) -> str:
    if may_be_planned_again(history):
        return "Plan again; that is fast for copies that share blocks with the template."
    sidecars = few(sidecar_paths(plan))
    return (
        f"Bring back the planned template, if it was replaced, and the former {sidecars}, which may have the"
        f" digest, {AGAIN}"
    )


def known_digest(plan: Plan) -> str:
    """Return the planned digest of the template's content; empty if unknown."""
    if plan.template_digest:
        return plan.template_digest
    for sidecar in sidecars_of(plan):
        # A record of the same file is not enough: its content may have been different when the plan was made.
        if plan.template.fingerprints in (sidecar.fingerprints, *sidecar.earlier):
            return sidecar.digest
    return ""


def sync(template: Image) -> None:
    """Sync a template to disk: it may just have been copied.

    :raises ImageError: the template cannot be synced.
    """
    for layer in template.layers:
        try:
            os.fsync(layer.fd)
        except OSError as error:
            fault = explain(error, Deed.WRITE, layer.path)
            raise ImageError(
                f"cannot sync {layer.path} to disk", path=layer.path, why=fault.why, remedy=fault.remedy
            ) from error
