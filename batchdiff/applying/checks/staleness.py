"""Decide whether an open guest is still as planned.

::

    what has changed                                   what follows
    nothing except what batchdiff itself changed       -> accepted
    only ctimes, as after a chmod, chown or rename     -> accepted if every byte will be compared anyway
    anything else                                      -> the plan is stale
"""

from __future__ import annotations

from dataclasses import replace

from batchdiff.applying.journal.records import STALE_PLAN, History
from batchdiff.choices import VerifyMode
from batchdiff.errors import PlanError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.image import Image
from batchdiff.plan.plan import PlannedImage

PLAN_AGAIN = "Shut down any VM or program that writes to the image, then plan again."


def with_accepted(record: PlannedImage, template: Image) -> PlannedImage:
    """Return a guest's record, in which any files of the template have their present fingerprints.

    The template may have lost its write permission, or come back from a backup.
    """
    accepted = dict(zip((layer.path for layer in template.layers), template.fingerprints(), strict=True))
    below = zip(record.paths[1:], record.fingerprints[1:], strict=True)
    known = tuple(accepted.get(path, planned) for path, planned in below)
    return replace(record, fingerprints=(record.fingerprints[0], *known))


def changes_since_planned(image: Image, record: PlannedImage, history: History) -> str:
    """Describe an image's changes, except ctimes that batchdiff changed; empty if none."""
    return record.changes(without_own_changes(record.fingerprints, image.fingerprints(), history))


def without_own_changes(
    planned: tuple[Fingerprint, ...], now: tuple[Fingerprint, ...], history: History
) -> tuple[Fingerprint, ...]:
    """Return ``now``, but with the planned fingerprint of each file that only batchdiff has changed.

    If the number of files has changed, return ``now`` as it is.
    """
    if len(planned) != len(now):
        return now
    return tuple(
        before if after in history.changed and before.is_unwritten(after) else after
        for before, after in zip(planned, now, strict=True)
    )


def check_unchanged(image: Image, record: PlannedImage, history: History, mode: VerifyMode) -> None:
    """Refuse a guest that has changed since planning; with full verification, ctimes may differ.

    :raises PlanError: it has changed.
    """
    if image.virtual_size != record.virtual_size:
        raise PlanError(
            STALE_PLAN,
            why=f"the virtual size of {image.path} is {image.virtual_size} bytes, not {record.virtual_size}",
            remedy="Plan again.",
        )
    changes = changes_since_planned(image, record, history)
    if changes and not (mode is VerifyMode.FULL and _at_most_in_ctime(image, record)):
        raise stale(changes)


def stale(changes: str) -> PlanError:
    """Return the error for a changed guest."""
    return PlanError(STALE_PLAN, why=changes, remedy=PLAN_AGAIN)


def _at_most_in_ctime(image: Image, record: PlannedImage) -> bool:
    planned, now = record.fingerprints, image.fingerprints()
    return len(planned) == len(now) and all(map(Fingerprint.is_unwritten, planned, now))
