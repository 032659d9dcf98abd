"""Recover what a lost or truncated journal recorded, as far as the template's sidecar and the files prove it.

::

    the overlay is there, and the sidecar names this plan for it -> the overlay was published
    the original, as planned, is in quarantine, and another file
    has its former name; the overlay is not there, and the
    sidecar does not name this plan for it                       -> the guest was restored; an older original stays
    otherwise, if the original, as planned, is in quarantine or
    about to be deleted                                          -> the overlay was published; it may be gone now
    neither is there, but the sidecar names this plan for the
    overlay                                                      -> the overlay was published; both are missing now
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

from batchdiff.applying.guests.file_names import original_names, require_examinable
from batchdiff.applying.guests.guest_files import Found, find_original, find_original_aside
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.errors import BatchdiffError, GuestError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.files.identity import is_one_image
from batchdiff.plan.path_map import NOTHING_MOVED, PathMap
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.plan.sidecar import OverlayOrigin, sidecars_of


def recover_states(plan: Plan, history: History, path_map: PathMap = NOTHING_MOVED) -> dict[str, GuestState]:
    """Return the states that the sidecar or the files show, but ``history`` lacks, by guest name.

    ``path_map``: the moves since paths were recorded in the sidecar.

    :raises ImageError: the files of a guest cannot be examined.
    """
    sidecars = [path_map.sidecar(sidecar) for sidecar in sidecars_of(plan)]
    origins = {path: origin for sidecar in sidecars for path, origin in sidecar.overlays.items()}
    found = {}
    for guest in plan.to_convert:
        if _is_known(guest.name, history):
            continue
        origin = _of_plan(origins.get(guest.overlay_path), guest, plan)
        if guest.name in history.states and not _is_recorded(guest, origin, plan):
            continue  # an apply that ended before it recorded a publication
        state = _state(guest, origin, plan)
        if state is not None:
            found[guest.name] = state
    return found


def _is_known(name: str, history: History) -> bool:
    """Return whether ``history`` shows what became of a guest.

    An apply that failed early shows nothing: it may not have found the files of a converted guest.
    """
    state = history.states.get(name)
    if state is None:
        return name in history.restored or (name in history.times and name not in history.failures)
    return state.published or state.goal is not Goal.APPLY or state.step is Step.RESTORED


def _of_plan(origin: OverlayOrigin | None, guest: GuestToConvert, plan: Plan) -> OverlayOrigin | None:
    """Return the origin of this plan's overlay if another overlay has replaced it; otherwise ``origin``.

    The replaced overlay's fingerprint is left out: another file is at its path.
    """
    for each in () if origin is None else origin.before:
        if _is_recorded(guest, each, plan):
            return replace(each, fingerprint=None)
    return origin


def _is_recorded(guest: GuestToConvert, origin: OverlayOrigin | None, plan: Plan) -> bool:
    return origin is not None and (origin.guest, origin.plan) == (guest.name, plan.checksum)


def _state(guest: GuestToConvert, origin: OverlayOrigin | None, plan: Plan) -> GuestState | None:
    recorded = _is_recorded(guest, origin, plan)
    aside = find_original_aside(guest)
    proven = aside if aside is not None and aside.proven else None
    if not recorded and proven is None:
        return None  # before any header is read: usually there is nothing to recover
    for path in (guest.source.path, guest.overlay_path):
        require_examinable(path)  # a file that only seems to be missing would prove something untrue
    overlay_is_there = has_template_as_backing_file(guest, plan)
    if proven is not None and not recorded and not overlay_is_there and _is_replaced(guest, proven):
        return GuestState(Step.RESTORED, Goal.RESTORE, fate=Fate.QUARANTINED, aside=proven.path)
    try:
        original = find_original(guest, None)
    except GuestError:  # two files could be the original; restore reports that, and leaves the guest alone
        if not recorded:
            return None
        original = aside
    # Without an overlay, a guest whose original is at its own path may never have been converted. If the original
    # is gone, too, the sidecar's record is enough, unless some other file is at the overlay's path.
    both_are_gone = original is None and not os.path.lexists(guest.overlay_path)
    if not overlay_is_there and not both_are_gone and (proven is None or original != proven):
        return None
    overlay = None if origin is None else origin.fingerprint
    return _from_original(original, guest, GuestState(Step.PUBLISHED, overlay=overlay, published=True))


def _is_replaced(guest: GuestToConvert, original: Found) -> bool:
    """Return whether a rebuilt image may have taken the name of an original in quarantine.

    Call this only if the sidecar does not name the overlay: restore removes the sidecar's entry before it ends.
    While there is an entry, the original may be all that is left.
    """
    names = original_names(guest.source.path)
    return original.path == names.quarantine and fingerprint_at(names.own) is not None


def _from_original(original: Found | None, guest: GuestToConvert, state: GuestState) -> GuestState:
    names = original_names(guest.source.path)
    if original is None:
        return replace(state, step=Step.RETIRED, fate=Fate.GONE)
    if original.path == names.quarantine:
        return replace(state, step=Step.RETIRED, fate=Fate.QUARANTINED, aside=original.path)
    if original.path == names.deleting:
        return replace(state, step=Step.RETIRING, moved=True)
    return state


def has_template_as_backing_file(guest: GuestToConvert, plan: Plan) -> bool:
    """Return whether a file at the overlay's path has the template as its backing file."""
    # Imported here: these modules load numpy, but recovery is rarely needed, and `status` must be quick.
    from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay  # noqa: PLC0415
    from batchdiff.image.backing_names import resolved_backing  # noqa: PLC0415
    from batchdiff.image.open import open_layer  # noqa: PLC0415

    if fingerprint_at(guest.overlay_path) is None:
        return False
    overlay = current_overlay(planned_overlay(guest, plan.template.source))
    try:
        with closing(open_layer(overlay)) as layer:
            named = resolved_backing(overlay, layer.backing)
    except BatchdiffError:
        return False
    return named is not None and is_one_image(named, plan.template.source.path)
