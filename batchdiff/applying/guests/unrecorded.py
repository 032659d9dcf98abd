"""Find the guests that a journal lacks; load the recovery modules only if such guests may exist, which is rare."""

from __future__ import annotations

import os

from batchdiff.applying.journal.records import GuestState, History
from batchdiff.files import own_files
from batchdiff.plan.path_map import PathMap
from batchdiff.plan.plan import Plan


def recover_unrecorded(plan: Plan, history: History, path_map: PathMap) -> dict[str, GuestState]:
    """Return, by name, the states of guests that ``history`` lacks, from the sidecar and files; change nothing."""
    if not _may_lack(plan, history):
        return {}
    # Imported here, because `status` otherwise needs none of the modules that read image headers.
    from batchdiff.applying.guests.recovery import recover_states  # noqa: PLC0415

    return recover_states(plan, history, path_map)


def _may_lack(plan: Plan, history: History) -> bool:
    """Return True if an original is missing, or apply may have made or renamed a file without recording it.

    Each sign counts by itself: the overlay may be missing, or the original in quarantine, or both.
    """
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
