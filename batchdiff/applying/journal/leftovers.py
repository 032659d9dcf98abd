"""Find the overlays that restores left behind because the overlays or the template could not be read."""

from __future__ import annotations

from batchdiff.applying.journal.file import read_history
from batchdiff.applying.journal.records import History
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.head import plan_head


def leftover(history: History, guest: str) -> str | None:
    """Return the path of the overlay that a restore left behind, if it is still there and unwritten.

    An overlay that has been written to may be in use.
    """
    left = history.left.get(guest)
    if left is None:
        return None
    path, known = left
    now = fingerprint_at(path)
    return path if now is not None and known.is_unwritten(now) else None


def leftovers(plan_path: str) -> frozenset[str]:
    """Return the paths of all leftover overlays of a plan; none if there is no plan.

    :raises PlanError: the journal cannot be read.
    """
    head = plan_head(plan_path)
    if head is None:
        return frozenset()
    history = read_history(plan_path, head.checksum)
    return frozenset(path for guest in history.left if (path := leftover(history, guest)) is not None)
