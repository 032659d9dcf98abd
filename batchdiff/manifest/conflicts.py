"""Checks of a manifest for files with two roles, and for existing files where new ones are to be written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchdiff.files.identity import Identity, identity_of
from batchdiff.linux.call_failures import how_to_remove
from batchdiff.manifest.text.problems import Problems, show_path
from batchdiff.quoting import show, yaml_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchdiff.manifest.guests import AnyGuest
    from batchdiff.manifest.images import FoundGuest, FoundImage


_BY_LINK = " through a symbolic link"


def check_guests(template: FoundImage | None, guests: Sequence[FoundGuest], problems: Problems) -> None:
    """Report guests that are also the template, a backing file, or another guest."""
    parts = _parts(template, guests)
    first: dict[Identity, FoundGuest] = {}
    for guest in guests:
        where = guest.written.image.path_where
        if part := parts.get(guest.place.identity):
            problems.add(
                where, f"{show(guest.place.written)} is {part}, so it cannot also be a guest; leave it out"
            )
        earlier = first.setdefault(guest.place.identity, guest)
        if earlier is not guest:
            link = _link(earlier, guest)
            remedy = _leave_out(earlier, guest, link=link)
            what = "block device" if guest.place.identity[0] == "device" else "file"
            problems.add(where, f"{guest} is the same {what} as {earlier}{link}; {remedy}")


def check_overlays(
    template: FoundImage | None,
    everyone: Sequence[FoundGuest],
    pending: Sequence[tuple[FoundGuest, str | None]],
    problems: Problems,
    *,
    left: Collection[str] | None,
) -> None:
    """Report overlays whose paths are taken, except those that take their guests' places.

    ``pending``: guests with their overlays' absolute paths, None if unusable. ``left``: overlays that a restore
    left behind; None to allow existing files that have no other role. Without a template, such files are always
    allowed: they may be overlays of an earlier plan.
    """
    # The role to name if a file has several: template, then backing file, then the first guest in the manifest.
    parts = {guest.place.identity: f"the guest {guest}" for guest in reversed(everyone)}
    parts |= _parts(template, everyone)
    for guest, path in pending:
        if path is None or guest.written.in_place:
            continue  # in place: check_guests reports other roles of the guest
        where = guest.written.overlay_where
        identity = identity_of(path)
        if identity in parts:
            remedy = _other(guest)
            problems.add(where, f"the overlay {show(path)} of {guest} is also {parts[identity]}; {remedy}")
        elif os.path.lexists(path) and left is not None and template:
            found = existing_overlay(
                path, str(guest), of_glob=_is_match(guest), is_left=path in left, key=guest.written.overlay_key
            )
            problems.add(where, found)


def check_unshared(guests: Sequence[tuple[AnyGuest, str | None]], problems: Problems) -> None:
    """Report different guests whose overlays have the same path."""
    first: dict[str, AnyGuest] = {}
    for guest, path in guests:
        if path is None or (guest.written.in_place and guest.identity):
            continue  # another guest at this path is the same file
        earlier = first.setdefault(path, guest)
        # check_guests reports two guests that are the same file.
        if earlier is not guest and (guest.identity is None or earlier.identity != guest.identity):
            remedy = _one_overlay_each(earlier, guest)
            where = guest.written.overlay_where
            problems.add(where, f"{guest} and {earlier} have the same overlay {show(path)}; {remedy}")


def check_data_files(  # noqa: PLR0913  # options by keyword
    template: FoundImage | None,
    everyone: Sequence[FoundGuest],
    overlays: Collection[str],
    pending: Sequence[tuple[FoundGuest, str]],
    problems: Problems,
    *,
    may_exist: bool,
) -> None:
    """Report data files that have another role and, unless ``may_exist``, those that exist already.

    ``pending``: guests with the paths of data files to write.
    """
    parts = {guest.place.identity: f"the guest {guest}" for guest in reversed(everyone)}
    parts |= _parts(template, everyone)
    first: dict[str, FoundGuest] = {}
    for guest, path in pending:
        earlier = first.setdefault(path, guest)
        identity, what = identity_of(path), f"the data file {show(path)} of {guest}"
        role = parts.get(identity) if identity else None
        if earlier is not guest:
            role = f"the data file of {earlier}"
        elif path in overlays:
            role = "an overlay"
        if role is not None:
            problems.add(
                guest.written.data_file_where, f"{what} is also {role}; {_other(guest, 'overlay.data_file')}"
            )
        elif os.path.lexists(path) and not may_exist:
            problems.add(
                guest.written.data_file_where, existing_data_file(path, str(guest), of_glob=_is_match(guest))
            )


def existing_data_file(path: str, guest: str, *, of_glob: bool = False) -> str:
    """Return the message about a file at the path of an overlay's data file."""
    found = f"the data file {show(path)} of the overlay of {guest} already exists. It may be part of a disk in use"
    give = "list the guest by path and give it" if of_glob else "give the guest"
    return f"{found}: {give} another overlay.data_file"


def existing_overlay(
    path: str, guest: str, *, of_glob: bool = False, is_left: bool = False, key: str = "overlay.path"
) -> str:
    """Return the message about what is at the path of a guest's overlay. ``is_left``: a restore left it."""
    if is_left:
        found = f"the overlay {show(path)} of {guest} already exists"
        only = "it is needed only to recover what the VM wrote"
        return f"{found}. A restore left it behind, and {only}: {how_to_remove(path)}"
    is_folder = os.path.isdir(path)
    if is_folder and key == "overlay.path":
        by_path = "list the guest by path, and " if of_glob else ""
        inside = yaml_text(os.path.join(path, "overlay.qcow2"))
        advice = f"{by_path}name a file in that folder, such as `overlay: {{path: {inside}}}`"
        return f"the overlay {show(path)} of {guest} is a folder; {advice}"
    leave_out = "`exclude` the guest, or list it by path and" if of_glob else "leave the guest out, or"
    found = "is a folder" if is_folder else "already exists. It may be a disk in use"
    return f"the overlay {show(path)} of {guest} {found}: {leave_out} give it another {key}"


def _is_match(guest: AnyGuest) -> bool:
    return guest.written.image.is_glob


def _leave_out(*guests: AnyGuest, link: str) -> str:
    if not any(map(_is_match, guests)):
        return "list it once"
    if not link:
        return "change the manifest's globs so that they match it once"  # `exclude` would leave out both matches
    # Excluding the target of a link would exclude the link, too.
    return "`exclude` the link" if link == _BY_LINK else "`exclude` one of the names"


def _other(guest: AnyGuest, key: str = "") -> str:
    listed = "list the guest by path and " if _is_match(guest) else ""
    return f"{listed}choose another {key or guest.written.overlay_key}"


def _one_overlay_each(one: AnyGuest, other: AnyGuest) -> str:
    """Advise on two guests with one overlay; only a guest that is listed by path can be given another."""
    listed = [guest for guest in (one, other) if not _is_match(guest)]
    key = (listed[0] if listed else one).written.overlay_key
    if not listed:
        return f"`exclude` one of them, or list one by path and give it another {key}"
    return f"give {listed[0] if len(listed) == 1 else 'one of them'} another {key}"


def _parts(template: FoundImage | None, guests: Sequence[FoundGuest]) -> dict[Identity, str]:
    parts = {
        place.identity: f"a backing file ({show_path(place.where)})"
        for image in (template, *(guest.image for guest in guests))
        if image
        for place in image.chain
    }
    if template:
        # A guest may already be an overlay, with the template in its own chain.
        parts[template.place.identity] = "the template"
    return parts


def _link(one: FoundGuest, other: FoundGuest) -> str:
    if one.place.identity[0] == "device" and one.place.named != other.place.named:
        return " under another name"
    if one.place.path != other.place.path:
        return " through a hard link or a bind mount"
    return _BY_LINK if one.place.named != other.place.named else ""
