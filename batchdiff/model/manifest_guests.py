"""The guests of a manifest: those that it lists by path, and those that its globs match.

A guest that an earlier plan converted is one of them, whether its original still exists or not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from batchdiff.image.identity import Identity, identity_of
from batchdiff.image.names import unfit
from batchdiff.model.manifest_converted import Converted, Done, GoneGuest
from batchdiff.model.manifest_globs import glob_matches, is_own_file, would_match
from batchdiff.model.manifest_images import FoundGuest, FoundImage, find_image
from batchdiff.model.manifest_names import default_overlay
from batchdiff.model.manifest_paths import is_image, missing_format, resolve_folder
from batchdiff.model.manifest_problems import Problems, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchdiff.model.manifest_entries import WrittenGuest
    from batchdiff.model.manifest_excludes import Excluded
    from batchdiff.model.manifest_problems import YamlPath

AnyGuest: TypeAlias = FoundGuest | GoneGuest


@dataclass(frozen=True, slots=True)
class WrittenGuests:
    """The guests as written in the manifest: its entries, and the names that its globs leave out."""

    guests: Sequence[WrittenGuest]
    excluded: Excluded


@dataclass(frozen=True, slots=True)
class _Taken:
    """Names and files with another role, which no glob may take in; besides them, batchdiff's own files."""

    paths: frozenset[str]
    files: frozenset[Identity]

    def has(self, named: str) -> bool:
        return (
            is_own_file(named)
            or named in self.paths
            or os.path.realpath(named) in self.paths
            or identity_of(named) in self.files
        )


def find_guests(
    entries: WrittenGuests,
    template: FoundImage | None,
    converted: Converted,
    folder: str,
    problems: Problems,
) -> list[AnyGuest]:
    """Return all guests in the order of the manifest, a glob's sorted by path; missing images become problems."""
    written, excluded = entries.guests, entries.excluded
    # Listed guests first: globs leave them out.
    listed = [guest for guest in written if not guest.image.is_glob]
    names = {resolve_folder(folder, each.image.path) for each in listed if not unfit(each.image.path)}
    found = {each.where: list(_listed(each, names, converted, folder, problems)) for each in listed}
    # All that the globs match, then only the images among that.
    globs = [guest for guest in written if guest.image.is_glob]
    matches = {
        guest.where: glob_matches(guest.image.path, guest.image.path_where, folder, problems) for guest in globs
    }
    images = {
        where: [path for path in paths if is_image(os.path.join(folder, path))] for where, paths in matches.items()
    }
    matched = {where: len(paths) for where, paths in images.items()}
    # Excluded images go before default overlays are determined: theirs must not hide a guest of the same name.
    for where, paths in images.items():
        images[where] = [path for path in paths if not excluded.has(resolve_folder(folder, path))]
    taken = _taken(written, [each for some in found.values() for each in some], template, folder, images)
    for guest in globs:
        # Images without another role; overlays of earlier plans among them are not guests, but no error either.
        untaken = [path for path in images[guest.where] if not taken.has(resolve_folder(folder, path))]
        kept = [path for path in untaken if not _is_overlay(guest, resolve_folder(folder, path), converted)]
        gone = [
            each
            for each in _gone(guest, matches[guest.where], taken, converted, folder)
            if not excluded.has(each.named)
        ]
        if not gone and not untaken:
            _report_empty(guest, matched[guest.where], folder, problems, template=template is not None)
        there = [replace(guest, image=replace(guest.image, path=path)) for path in kept]
        found[guest.where] = _in_order(_found(there, folder, problems), gone)
    return [each for guest in written for each in found[guest.where]]


def _in_order(there: list[AnyGuest], gone: list[GoneGuest]) -> list[AnyGuest]:
    # Existing guests alone keep the order of the glob, which differs from that of resolved paths.
    return sorted([*there, *gone], key=lambda each: each.named) if gone else there


def _found(written: Iterable[WrittenGuest], folder: str, problems: Problems) -> list[AnyGuest]:
    return [FoundGuest(guest, image) for guest in written if (image := find_image(guest.image, folder, problems))]


def _listed(
    guest: WrittenGuest, names: set[str], converted: Converted, folder: str, problems: Problems
) -> Iterator[AnyGuest]:
    """Yield a guest that is listed by path; it may be gone if it was converted."""
    path = guest.image.path
    if unfit(path) or os.path.exists(os.path.join(folder, path)):
        yield from _found([guest], folder, problems)
        return
    named = resolve_folder(folder, path)
    done = _conversion(guest, named, names, converted, folder)
    if done is None and not converted.can_know and os.path.lexists(_overlay_of(guest, named, names, folder)):
        return  # it may be converted; without the template, whose absence is reported, nobody can know
    if done is None:
        yield from _found([guest], folder, problems)
    elif guest.image.format is None:
        problems.add(guest.where, missing_format(folder, path))
    else:
        yield GoneGuest(guest, named, done)


def _conversion(
    guest: WrittenGuest, named: str, names: set[str], converted: Converted, folder: str
) -> Done | None:
    """Return how a guest that is no longer at its path was converted; None if it was not."""
    path = os.path.realpath(named)  # a link to the original outlives it
    overlay = _overlay_of(guest, named, names, folder)
    # The manifest may name another path for the overlay by now.
    return converted.of((named, path), (overlay,)) or converted.in_folder(os.path.dirname(path)).get(path)


def _overlay_of(guest: WrittenGuest, named: str, names: set[str], folder: str) -> str:
    """Return the overlay that a guest, no longer at its path, would have according to the manifest."""
    if guest.in_place:
        return os.path.realpath(named)
    if guest.overlay_path and not unfit(guest.overlay_path):
        return resolve_folder(folder, guest.overlay_path)
    return default_overlay(named, names)


def _gone(
    guest: WrittenGuest, matches: list[str], taken: _Taken, converted: Converted, folder: str
) -> list[GoneGuest]:
    """Return the converted guests that a glob would match if their originals still existed."""
    gone: dict[str, GoneGuest] = {}
    for match in matches:
        named = resolve_folder(folder, match)
        if os.path.islink(named) and not os.path.exists(named):  # a link whose original is gone
            done = _conversion(guest, named, set(), converted, folder)
            if done is not None:
                gone[done.overlay_path] = GoneGuest(_one_of(guest, named), named, done)
    for place, fits in would_match(guest.image.path, folder):
        for original, done in converted.in_folder(place).items():
            if fits(os.path.basename(original)) and not os.path.lexists(original):
                gone.setdefault(done.overlay_path, GoneGuest(_one_of(guest, original), original, done))
    return [each for each in gone.values() if each.named not in taken.paths]


def _one_of(guest: WrittenGuest, path: str) -> WrittenGuest:
    return replace(guest, image=replace(guest.image, path=path))


def _is_overlay(guest: WrittenGuest, named: str, converted: Converted) -> bool:
    """Return True if a glob's match is the overlay of another guest, and not a guest itself."""
    origin = converted.origin_of(named)
    if origin is None:
        return False
    return origin.original != named if origin.original else not guest.in_place


def _report_empty(guest: WrittenGuest, matched: int, folder: str, problems: Problems, *, template: bool) -> None:
    """Report why a glob yields no guest."""
    where, pattern = guest.image.path_where, show(guest.image.path)
    if problems.objects_to(where):
        return
    if not matched:
        remedy = "correct the pattern, or leave it out"
        if not template:  # then it is unknown which guests were converted and are gone
            remedy = "if its guests were converted, correct only the template; if not, correct the pattern"
        problems.add(where, f"no image matches {pattern} in {show(folder)}; {remedy}")
        return
    problems.add(
        where,
        f"no guest matches {pattern}: each of its matches ({matched}) is the template, a backing file, an overlay,"
        " a file of batchdiff's own, a guest that is listed by path, or excluded",
    )


def _taken(
    written: Sequence[WrittenGuest],
    listed: Sequence[AnyGuest],
    template: FoundImage | None,
    folder: str,
    images: dict[YamlPath, list[str]],
) -> _Taken:
    """Return the names and files that have another role than a glob's guest.

    ``listed``: the guests that are listed by path; ``images``: the matches of each glob, without excluded ones.
    """
    existing = [guest for guest in listed if isinstance(guest, FoundGuest)]
    # Listed guests, by the name in the manifest and by the file behind all links.
    guests = {guest.named for guest in listed} | {guest.place.path for guest in existing}
    overlays = _written_overlays(written, folder)
    # Default overlays count by path only: a hard link of a guest with such a name must not hide that guest.
    defaults = _default_overlays(written, listed, folder, images)
    # Files with a role in other guests' chains or as overlays, by whatever name or link a glob finds them.
    backing = [os.path.join(folder, image.path) for guest in written for image in guest.image.backing]
    files = {identity for path in (*overlays, *backing) if (identity := identity_of(path))}
    files |= {place.identity for place in (template.place, *template.chain)} if template else set()
    # Block devices have names that do not resolve to one another: /dev/vg/lv, /dev/mapper/vg-lv.
    files |= {guest.place.identity for guest in existing if guest.place.identity[0] == "device"}
    return _Taken(frozenset(guests | overlays | defaults), frozenset(files))


def _written_overlays(written: Sequence[WrittenGuest], folder: str) -> set[str]:
    """Return the overlays to which the manifest gives a path."""
    paths = [guest.overlay_path for guest in written if guest.overlay_path and not guest.in_place]
    return {resolve_folder(folder, path) for path in paths if not unfit(path)}


def _default_overlays(
    written: Sequence[WrittenGuest],
    listed: Sequence[AnyGuest],
    folder: str,
    images: dict[YamlPath, list[str]],
) -> set[str]:
    """Return the overlays of all guests, listed or matched, to which the manifest gives no overlay path."""
    globs = [guest for guest in written if guest.image.is_glob and not guest.overlay_path]
    matched = [resolve_folder(folder, path) for guest in globs for path in images[guest.where]]
    unplaced = [guest.named for guest in listed if not guest.written.overlay_path]
    names = {guest.named for guest in listed}
    return {default_overlay(path, names) for path in (*unplaced, *matched)}
