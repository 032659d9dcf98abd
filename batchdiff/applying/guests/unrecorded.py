"""Find the guests that a journal lacks, without the modules that recover them: usually there are none."""

from __future__ import annotations

import os

from batchdiff.applying.journal.records import GuestState, History
from batchdiff.files import own_files
from batchdiff.plan.path_map import PathMap
from batchdiff.plan.plan import Plan


def recover_unrecorded(plan: Plan, history: History, path_map: PathMap) -> dict[str, GuestState]:
    """Return where guests stand that ``history`` lacks, by name, as sidecar and files prove it; change nothing."""
    if not _may_lack(plan, history):
        return {}
    # Imported here: it reads image headers, and `status` does not need the modules for that otherwise.
    from batchdiff.applying.guests.recovery import recover_states  # noqa: PLC0415

    return recover_states(plan, history, path_map)


def _may_lack(plan: Plan, history: History) -> bool:
    """Return True if there is a file that apply may have made or renamed, and that the journal does not mention.

    The overlay may be missing, and only the original in quarantine left; or an original may be missing as well.
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
