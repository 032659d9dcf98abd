"""Are guest and template still what was planned? Asked before writing, after verifying, and before each rename."""

from __future__ import annotations

from batchdiff.applying.notes import Notes
from batchdiff.errors import PlanError
from batchdiff.image.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.image import Image
from batchdiff.model.plan import PlannedImage


def check_unchanged(image: Image, record: PlannedImage, notes: Notes) -> None:
    """Compares an open image's chain with the plan; what batchdiff itself did to their ctime is known.

    :raises PlanError: a file of it changed.
    """
    if image.virtual_size != record.virtual_size:
        raise PlanError(
            f"the plan is wrong about {image.path}", why="it has another virtual size", remedy="Plan again."
        )
    _check(image.fingerprints(), record, notes)


def check_template_at_its_path(template: PlannedImage, notes: Notes) -> None:
    """Compares what stands under the template's names with the plan, for descriptors do not see a replacement.

    :raises PlanError: a file of it changed.
    """
    _check(tuple(fingerprint_at(path) or NO_FILE for path in template.paths), template, notes)


def _check(found: tuple[Fingerprint, ...], record: PlannedImage, notes: Notes) -> None:
    now = tuple(
        before if after in notes.changed and before.differs_in_ctime_only(after) else after
        for before, after in zip(record.fingerprints, found, strict=True)
    )
    changes = record.changes(now)
    if changes:
        raise PlanError(
            "the plan is stale", why=changes, remedy="Shut down what writes to it, if anything; then plan again."
        )
