"""Load the recovery module only if a journal may lack the conversion of a guest."""

from __future__ import annotations

import os

from batchdiff.applying.journal.records import GuestState, History
from batchdiff.files import own_files
from batchdiff.plan.path_map import PathMap
from batchdiff.plan.plan import Plan


def recover_unrecorded(plan: Plan, history: History, path_map: PathMap) -> dict[str, GuestState]:
    """See :func:`recovery.recover_states`.

    :raises ImageError: the files of a guest cannot be examined.
    """
    if not _may_lack(plan, history):
        return {}
    # Imported here: recovery is rarely needed, and `status` must be quick.
    from batchdiff.applying.guests.recovery import recover_states  # noqa: PLC0415

    return recover_states(plan, history, path_map)


def _may_lack(plan: Plan, history: History) -> bool:
    """One sign of a conversion is enough: the guest may since have lost its overlay, its original, or both."""
    published = set(history.published)
    return any(
        not os.path.lexists(guest.source.path)
        or any(
            os.path.lexists(path)
            for path in (
                guest.overlay_path,
                guest.source.path + own_files.QUARANTINE,
                guest.source.path + own_files.DELETING,
            )
        )
        for guest in plan.guests
        if guest.name not in published
    )
