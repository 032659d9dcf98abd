"""Find images that have changed since planning, by their fingerprints alone."""

from __future__ import annotations

from batchdiff.applying.journal.records import History, Step
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import is_known_template


def changed_images(plan: Plan, history: History) -> list[str]:
    """Describe the changed files of the template and of guests that are still to be converted or shared.

    The template is left out of guests' chains: only the template's own check recognises changes that were made by
    applying other plans.
    """
    pending = [guest.image for guest in plan.to_convert if guest.name not in history.published]
    pending += [guest.image for guest in plan.to_share if not _is_shared(guest.name, history)]
    if plan.to_share and not plan.to_convert and not pending:
        return []  # guests that share blocks do not depend on the template
    template = [] if _is_template_unchanged(plan) else [plan.template]
    notices = []
    for image in [*template, *pending]:
        for path, planned in zip(image.paths, image.fingerprints, strict=True):
            if image is not plan.template and path in plan.template.paths:
                continue
            now = fingerprint_at(path)
            # history.changed also has images that restore rebuilt, which are not the planned files.
            if now is not None and now in history.changed and planned.is_unwritten(now):
                continue
            changes = planned.changes(now)
            if changes:
                notices.append(f"{path}: {changes}")
    return notices


def _is_shared(guest: str, history: History) -> bool:
    state = history.states.get(guest)
    return state is not None and state.step is Step.SHARED


def _is_template_unchanged(plan: Plan) -> bool:
    now = tuple(fingerprint_at(path) or NO_FILE for path in plan.template.paths)
    return is_known_template(plan.template, now)
