"""Is the template still what the plan knows? Everything that apply does rests on that."""

from __future__ import annotations

import os

from batchdiff.applying.notes import Notes
from batchdiff.applying.run import Run
from batchdiff.applying.sidecar import read_sidecar
from batchdiff.applying.staleness import check_unchanged
from batchdiff.errors import ImageError, PlanError
from batchdiff.image.digest import content_digest
from batchdiff.image.image import Image
from batchdiff.model.plan import Plan, PlannedImage


def check_planned(template: Image, planned: PlannedImage, notes: Notes) -> None:
    """Refuses a template that is not as it was planned, and says what that means for overlays that are there.

    :raises PlanError: it changed.
    """
    try:
        check_unchanged(template, planned, notes)
    except PlanError as error:
        if not notes.published:
            raise
        raise PlanError(
            f"the template changed after overlays were put on it ({', '.join(notes.published)})",
            why=error.why,
            remedy="`batchdiff verify` tells whether its content did. If so, they are damaged: start no VM.",
        ) from error


def check_content(run: Run, plan: Plan) -> None:
    """As :func:`check_planned`, but a template that was only touched, or copied, will do: its content counts.

    :raises PlanError: its content changed, or cannot be told.
    """
    try:
        check_planned(run.template, plan.template, run.journal.notes)
    except PlanError as error:
        known = known_digest(plan)
        if not known or content_digest(run.template, check=run.stop.check) != known:
            raise PlanError(error.what, why=error.why, remedy=error.remedy) from error


def known_digest(plan: Plan) -> str:
    """The digest of the planned template's content; empty where nobody has taken it."""
    if plan.template_digest:
        return plan.template_digest
    sidecar = read_sidecar(plan.template.source.path)
    return "" if sidecar is None or sidecar.fingerprints[0].inode != _inode(plan) else sidecar.digest


def _inode(plan: Plan) -> int:
    return plan.template.fingerprints[0].inode


def sync(template: Image) -> None:
    """Makes a template durable that was copied a moment ago, before anything rests on it alone.

    :raises ImageError: the disk has a fault.
    """
    for layer in template.layers:
        try:
            os.fsync(layer.fd)
        except OSError as error:
            raise ImageError(f"cannot make {layer.path} durable", why=error.strerror or str(error)) from error
