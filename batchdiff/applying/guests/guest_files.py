"""Find where the files of a guest are now.

Only a fingerprint proves that a file is the recorded one: an administrator may copy, move or replace files. Some
other files count because of their names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from batchdiff.applying.guests.file_names import original_names, overlay_names, require_examinable
from batchdiff.applying.guests.status import OnDisk, TemplateIs, Written
from batchdiff.applying.journal.leftovers import leftover
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History
from batchdiff.errors import GuestError, ImageError
from batchdiff.files.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.frozen import frozen
from batchdiff.plan.plan import GuestToConvert, Plan, PlannedImage

KnownPart: TypeAlias = tuple[str, Fingerprint]
"""The path and the recorded fingerprint of an extent or a data file."""


@frozen
class Found:
    """A file that was found. ``proven``: it and its parts are as recorded, as far as fingerprints show."""

    path: str
    now: Fingerprint
    proven: bool


def find_overlay(guest: GuestToConvert, state: GuestState | None) -> Found | None:
    """Return a guest's overlay, under its present name.

    :raises GuestError: more than one file could be it.
    :raises ImageError: it cannot be examined.
    """
    require_examinable(guest.overlay_path)
    published = state is not None and state.published
    known = None if state is None else state.overlay
    names = overlay_names(guest.overlay_path)
    found = []
    for path in (names.own, names.quarantine, names.deleting):
        now = _regular(path)
        if now is None or _is_the_guests_image(guest, now, state):
            continue
        if path == names.own and _has_made_way(guest, state):
            continue
        proven = known is not None and known.is_unwritten(now) and not _data_was_written(guest, state)
        # Until a publication is recorded, only the verified file can be the overlay: any other file belongs to the
        # operator. If apply died before it recorded the publication, a VM may have written to the verified file.
        if proven or published or (known is not None and known.is_same_file(now)):
            found.append(Found(path, now, proven))
    if len(found) > 1:
        raise GuestError(
            f"{guest.name} was left alone",
            why=f"both {found[0].path} and {found[1].path} exist, and either could be its overlay",
            remedy="Find out which of the two is its overlay and move the other away, then run the same command"
            " again.",
        )
    return found[0] if found else None


def _has_made_way(guest: GuestToConvert, state: GuestState | None) -> bool:
    """Return whether restore has given the overlay's name to a full image."""
    one_name = guest.overlay_path == guest.source.path
    return one_name and state is not None and state.goal is Goal.RESTORE and state.deleting


def _data_was_written(guest: GuestToConvert, state: GuestState | None) -> bool:
    """Return whether a data file is not as recorded; the overlay's own file need not show that."""
    path, known = guest.options.data_file, None if state is None else state.data_file
    return path is not None and (known is None or known.was_written_to(fingerprint_at(path) or NO_FILE))


def find_original(guest: GuestToConvert, state: GuestState | None) -> Found | None:
    """Return a guest's original, under its present name.

    Only batchdiff uses the quarantine name, so any regular file with that name counts, unless the original was
    deleted.

    :raises GuestError: either of two files could be it.
    :raises ImageError: it was not deleted, but cannot be examined.
    """
    if state is None or state.fate is not Fate.DELETED:
        require_examinable(guest.source.path)
    names = original_names(guest.source.path)
    own = _found(names.own, _regular_or_device(names.own), guest)
    if own is not None and (own.proven or _has_made_way(guest, state)):
        return own
    aside = None if is_of_later_plan(guest, state) else find_original_aside(guest)
    if own is None or _is_rebuilt(own.now, state) or guest.overlay_path == guest.source.path:
        return aside
    if aside is not None:
        raise GuestError(
            f"{guest.name} was left alone",
            why=f"both {own.path} and {aside.path} exist, and either could be its original",
            remedy="Find out which of the two is its original and move the other away, then run the same command"
            " again.",
        )
    return own


def is_of_later_plan(guest: GuestToConvert, state: GuestState | None) -> bool:
    """Return whether a file in quarantine, if any, is a later plan's original, such as this plan's overlay."""
    aside = find_original_aside(guest)
    return state is not None and state.fate is Fate.DELETED and not (aside is not None and aside.proven)


def find_original_aside(guest: GuestToConvert) -> Found | None:
    """Return a proven original that is about to be deleted, or any regular file in quarantine."""
    names = original_names(guest.source.path)
    found = [_found(path, _regular(path), guest) for path in (names.deleting, names.quarantine)]
    there = [each for each in found if each is not None and (each.proven or each.path == names.quarantine)]
    return there[0] if there else None


def _found(path: str, now: Fingerprint | None, guest: GuestToConvert) -> Found | None:
    if now is None:
        return None
    parts = [(known, fingerprint_at(other) or NO_FILE) for other, known in guest.image.other_files]
    known = guest.image.fingerprints[0]
    return Found(path, now, all(each.is_unwritten(there) for each, there in ((known, now), *parts)))


def parts_left(parts: Iterable[KnownPart]) -> list[KnownPart]:
    """Return the parts that still exist, with their present paths."""
    found = []
    for path, known in parts:
        for place in (path, original_names(path).deleting):
            now = fingerprint_at(place)
            if now is not None and known.is_same_file(now):
                found.append((place, known))
    return found


def lacks_parts(original: PlannedImage) -> bool:
    """Return whether a part of an original cannot be found."""
    return any(fingerprint_at(path) is None for path, _ in original.other_files)


def changed_parts(original: PlannedImage) -> str:
    """Describe the parts of an original that are missing, or have changed in size or mtime."""
    found = []
    for path, known in original.other_files:
        now = fingerprint_at(path)
        if now is None or known.was_written_to(now):
            found.append(f"{path}: {known.changes(now)}")
    return "; ".join(found)


def original_is(path: str, planned: PlannedImage) -> str:
    """Return the words after "the original": its path and, if known, whether it has changed."""
    known, now = planned.fingerprints[0], fingerprint_at(path)
    if now is None or not now.vouches_for_content:
        return f" is {path}"
    if known.was_written_to(now) or changed_parts(planned):
        return f", which has changed since it was planned, is {path}"
    return f", as it was before the conversion, is {path}"


def changes_aside(guest: GuestToConvert) -> str:
    """Describe how an original that was set aside has changed since it was planned."""
    found, known = find_original_aside(guest), guest.image.fingerprints[0]
    if found is None:
        return ""
    own = known.changes(found.now) if known.was_written_to(found.now) else ""
    return "; ".join(filter(None, (own, changed_parts(guest.image))))


def overlay_was_written(guest: GuestToConvert, state: GuestState) -> bool:
    """Return whether a published overlay exists, and it or its data file is not as recorded."""
    now = fingerprint_at(guest.overlay_path)
    known = state.overlay if state.published else None
    return known is not None and now is not None and (known.was_written_to(now) or _data_was_written(guest, state))


def rebuilt_is_in_place(guest: GuestToConvert, state: GuestState | None) -> bool:
    """Return whether the file at the guest's path is a rebuilt image that has not been written to."""
    now = fingerprint_at(guest.source.path)
    return now is not None and _is_rebuilt(now, state) and not _is_original(guest, now)


def _is_rebuilt(now: Fingerprint, state: GuestState | None) -> bool:
    return state is not None and state.rebuilt is not None and state.rebuilt.is_unwritten(now)


def _is_the_guests_image(guest: GuestToConvert, now: Fingerprint, state: GuestState | None) -> bool:
    return _is_original(guest, now) or _is_rebuilt(now, state)


def _is_original(guest: GuestToConvert, now: Fingerprint) -> bool:
    return guest.image.fingerprints[0].is_unwritten(now)


def missing(path: str) -> str:
    """Return the words after the path of a missing file."""
    try:
        return f"is missing (a symbolic link to {os.readlink(path)} is in its place; links are not followed)"
    except OSError:
        return "is missing"


def _regular(path: str) -> Fingerprint | None:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
    except OSError:
        return None
    return fingerprint_at(path)


def _regular_or_device(path: str) -> Fingerprint | None:
    """Follow a link only if it leads to a block device."""
    found = fingerprint_at(path)
    return _regular(path) if found is None or found.vouches_for_content else found


def on_disk(plan: Plan, history: History) -> dict[str, OnDisk]:
    """Return the files of guests that apply has started to convert, by guest name."""
    found, template, back = {}, _template(plan), history.given_back(plan.created)
    for guest in plan.to_convert:
        state, known = history.under_way(guest.name), history.states.get(guest.name)
        left = leftover(history, guest.name)
        if state is not None:
            found[guest.name] = replace(_on_disk(guest, state), template=template)
        elif known is not None or left is not None or guest.name in back:
            found[guest.name] = _given_back(guest, None if known is None else known.aside, left)
    return found


def _given_back(guest: GuestToConvert, aside: str | None, left: str | None) -> OnDisk:
    own = guest.source.path
    path, is_there = aside or own, _regular_or_device(own) is not None
    return OnDisk(
        None,
        path if os.path.lexists(path) else None,
        written=Written.ORIGINAL if aside and changes_aside(guest) else Written.NONE,
        left=left,
        missing="" if is_there else f"{own} {missing(own)}",
    )


def _template(plan: Plan) -> TemplateIs:
    """Compare sizes and mtimes only: a move may change the inode."""
    for path, planned in zip(plan.template.paths, plan.template.fingerprints, strict=True):
        try:
            require_examinable(path)
        except ImageError:
            return TemplateIs.UNKNOWN
        now = fingerprint_at(path)
        if now is None:
            return TemplateIs.MISSING
        if (now.size, now.mtime_ns) != (planned.size, planned.mtime_ns):
            return TemplateIs.WRITTEN_TO
    return TemplateIs.THERE


def _on_disk(guest: GuestToConvert, state: GuestState) -> OnDisk:
    try:
        overlay, original = find_overlay(guest, state), find_original(guest, state)
    except GuestError as error:
        return OnDisk(None, None, f"move one away: {error.why}")
    except ImageError as error:
        return OnDisk(None, None, f"fix this first: {error.reason}")
    is_half_deleted = original is None and state.deleting and state.goal is not Goal.RESTORE
    return OnDisk(
        overlay.path if overlay else None,
        original.path if original else None,
        written=_written(overlay, state.overlay, Written.OVERLAY)
        | (Written.OVERLAY if overlay and _data_was_written(guest, state) else Written.NONE)
        | _written(original, guest.image.fingerprints[0], Written.ORIGINAL)
        | (Written.ORIGINAL if original and changed_parts(guest.image) else Written.NONE),
        parts=tuple(path for path, _ in parts_left(guest.image.other_files)) if is_half_deleted else (),
    )


def _written(found: Found | None, known: Fingerprint | None, kind: Written) -> Written:
    return kind if found and known and known.was_written_to(found.now) else Written.NONE
