"""Are guest and template still what was planned? Asked before writing, after verifying, and before retiring."""

from __future__ import annotations

from batchdiff.applying.journal import Journal
from batchdiff.errors import PlanError
from batchdiff.image.fingerprint import Fingerprint, fingerprint_at
from batchdiff.image.image import Image
from batchdiff.model.plan import PlannedImage

_GONE = Fingerprint(0, 0, 0, 0, 0)
"""What no file has; for one that is missing."""


def check_unchanged(image: Image, record: PlannedImage, template: PlannedImage, journal: Journal) -> None:
    """Compares an image's chain with the plan; what apply itself did to their ctime is known.

    :raises PlanError: a file of it changed.
    """
    if image.virtual_size != record.virtual_size:
        raise PlanError(
            f"the plan is wrong about {image.path}", why="it has another virtual size", remedy="Plan again."
        )
    _check(image.fingerprints(), record, template, journal)


def check_both_unchanged(image: Image, record: PlannedImage, template: PlannedImage, journal: Journal) -> None:
    """Compares a guest and the template with the plan: what was verified is true of these two only.

    :raises PlanError: one of them changed.
    """
    check_unchanged(image, record, template, journal)
    _check(tuple(fingerprint_at(path) or _GONE for path in template.paths), template, template, journal)


def _check(found: tuple[Fingerprint, ...], record: PlannedImage, template: PlannedImage, journal: Journal) -> None:
    planned = {(known.device, known.inode): known for known in (*template.fingerprints, *record.fingerprints)}
    ours = journal.changed
    now = tuple(planned.get((each.device, each.inode), each) if each in ours else each for each in found)
    changes = record.changes(now)
    if changes:
        raise PlanError(
            "the plan is stale", why=changes, remedy="Shut down what writes to it, if anything; then plan again."
        )
