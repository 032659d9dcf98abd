"""Find out what became of guests, from the journal and the files."""

from __future__ import annotations

import os

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.kept_originals import with_dependents
from batchdiff.applying.guests.status import OnDisk, Written
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.applying.results.conversion import Conversion, FreedSpace, OlderOriginal, freed_by_sharing
from batchdiff.errors import BatchdiffError
from batchdiff.image.files import open_image_file
from batchdiff.linux.mounts import filesystem_of
from batchdiff.plan.plan import GuestToConvert, Plan

_BLOCK = 512
"""The unit of st_blocks, in bytes."""


def conversions(plan: Plan, history: History) -> dict[str, Conversion]:
    """Return recorded conversions that restore has not undone, by guest name."""
    if not history.published:
        return {}
    there = with_dependents(plan, on_disk(plan, history))
    found = {}
    for guest in plan.to_convert:
        state = history.under_way(guest.name)
        if state is not None and state.published and state.overlay is not None:
            found[guest.name] = _conversion(guest, state, there[guest.name])
    return found


def came_back_by_sharing(plan: Plan, history: History) -> dict[str, FreedSpace]:
    """Return the space that completed sharing has freed, by guest name."""
    found = {}
    for guest in plan.to_share:
        state = history.states.get(guest.name)
        if state is not None and state.step is Step.SHARED:
            found[guest.name] = freed_by_sharing(guest, state)
    return found


def older_originals(plan: Plan, history: History) -> dict[str, OlderOriginal]:
    """Return older originals in quarantine, by guest name."""
    found = {}
    for guest in plan.to_convert:
        state = history.states.get(guest.name)
        if state is not None and state.step is Step.RESTORED and state.aside and os.path.lexists(state.aside):
            found[guest.name] = OlderOriginal(state.aside, _taken(state.aside))
    return found


def _conversion(guest: GuestToConvert, state: GuestState, there: OnDisk) -> Conversion:
    length = sum(each.size for each in (state.overlay, state.data_file) if each is not None)
    taken = None if there.overlay is None else _taken(there.overlay)
    data_file = guest.options.data_file
    # The data file may be gone: the VM's owner may have merged it into the overlay.
    if taken is not None and data_file is not None and os.path.exists(data_file):
        of_data = _taken(data_file)
        taken = None if of_data is None else taken + of_data
    fate, used, planned = _fate(guest, state, there), Written.OVERLAY in there.written, guest.diff.savings
    came_back = 0
    if fate in {Fate.DELETED, Fate.GONE}:
        # What the VM has written since does not count.
        more = 0 if used or taken is None else taken - planned.overlay_disk_bytes
        came_back = planned.saved_bytes - more
    aside = there.original if fate is Fate.QUARANTINED else None
    return Conversion(fate, length, taken, used, came_back, aside, there.dependents)


def _fate(guest: GuestToConvert, state: GuestState, there: OnDisk) -> Fate:
    if there.doubt:
        return Fate.UNKNOWN
    if there.original is None:
        return fate_of_missing(state)
    names = original_names(guest.source.path)
    return Fate.QUARANTINED if there.original in {names.quarantine, names.deleting} else Fate.KEPT


def fate_of_missing(state: GuestState) -> Fate:
    """Return DELETED if the journal shows that batchdiff deleted the original, otherwise GONE."""
    # If the goal is RESTORE, `deleting` is about the overlay.
    deleted = state.deleting and state.goal is not Goal.RESTORE
    deleted |= state.fate is Fate.DELETED or state.step is Step.PURGED
    return Fate.DELETED if deleted else Fate.GONE


def _taken(path: str) -> int | None:
    try:
        fd = open_image_file(path)
    except (BatchdiffError, OSError):
        return None
    try:
        if filesystem_of(fd) != "btrfs":
            return os.fstat(fd).st_blocks * _BLOCK
        # Imported here: it loads numpy, which doubles the start-up time of `show`.
        from batchdiff.image.storage.allocation import allocated_bytes  # noqa: PLC0415

        return allocated_bytes(fd, path)
    except (BatchdiffError, OSError):  # a failure here must not hide the other guests
        return None
    finally:
        os.close(fd)
