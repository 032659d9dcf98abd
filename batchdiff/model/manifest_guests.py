"""The guests that a manifest means: those that it lists by path, and what its globs take in.

A guest that an earlier plan has converted belongs to them, whether its original is still there or not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

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


class WrittenGuests(NamedTuple):
    """The guests as the manifest has them: its entries, and what its globs leave out."""

    guests: Sequence[WrittenGuest]
    excluded: Excluded


class _Taken(NamedTuple):
    """What a glob may not take in: listed guests and overlays by path, these files by identity."""

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
    """All guests in the order of the manifest, a glob's sorted by path; what is not there is a problem."""
    written, excluded = entries.guests, entries.excluded
    listed = [guest for guest in written if not guest.image.is_glob]
    names = {resolve_folder(folder, each.image.path) for each in listed if not unfit(each.image.path)}
    found = {each.where: list(_listed(each, names, converted, folder, problems)) for each in listed}
    globs = [guest for guest in written if guest.image.is_glob]
    matches = {
        guest.where: glob_matches(guest.image.path, guest.image.path_where, folder, problems) for guest in globs
    }
    images = {
        where: [path for path in paths if is_image(os.path.join(folder, path))] for where, paths in matches.items()
    }
    matched = {where: len(paths) for where, paths in images.items()}
    # Before overlays are thought of: one that an excluded image would get hides no guest of that name.
    for where, paths in images.items():
        images[where] = [path for path in paths if not excluded.has(resolve_folder(folder, path))]
    taken = _taken(written, [each for some in found.values() for each in some], template, folder, images)
    for guest in globs:
        untaken = [path for path in images[guest.where] if not taken.has(resolve_folder(folder, path))]
        kept = [path for path in untaken if not _is_overlay(guest, resolve_folder(folder, path), converted)]
        gone = [
            each
            for each in _gone(guest, matches[guest.where], taken, converted, folder)
            if not excluded.has(each.named)
        ]
        if not gone and not untaken:
            _report_empty(guest, matched[guest.where], folder, problems, template=template is not None)
        there = [guest._replace(image=guest.image._replace(path=path)) for path in kept]
        found[guest.where] = _in_order(_found(there, folder, problems), gone)
    return [each for guest in written for each in found[guest.where]]


def _in_order(there: list[AnyGuest], gone: list[GoneGuest]) -> list[AnyGuest]:
    # Those that are there are sorted as the glob gave them, which is not the order of resolved paths.
    return sorted([*there, *gone], key=lambda each: each.named) if gone else there


def _found(written: Iterable[WrittenGuest], folder: str, problems: Problems) -> list[AnyGuest]:
    return [FoundGuest(guest, image) for guest in written if (image := find_image(guest.image, folder, problems))]


def _listed(
    guest: WrittenGuest, names: set[str], converted: Converted, folder: str, problems: Problems
) -> Iterator[AnyGuest]:
    """Yield a guest that is listed by path; it need not be there if it was converted."""
    path = guest.image.path
    if unfit(path) or os.path.exists(os.path.join(folder, path)):
        yield from _found([guest], folder, problems)
        return
    named = resolve_folder(folder, path)
    done = _conversion(guest, named, names, converted, folder)
    if done is None and not converted.can_know and os.path.lexists(_overlay_of(guest, named, names, folder)):
        return  # it may be converted: that the template is not there is told
    if done is None:
        yield from _found([guest], folder, problems)
    elif guest.image.format is None:
        problems.add(guest.where, missing_format(folder, path))
    else:
        yield GoneGuest(guest, named, done)


def _conversion(
    guest: WrittenGuest, named: str, names: set[str], converted: Converted, folder: str
) -> Done | None:
    """Return how a guest that is not at its path was converted; None if it was not."""
    path = os.path.realpath(named)  # a link to the original is there without it
    overlay = _overlay_of(guest, named, names, folder)
    # The manifest may have given the overlay another path since.
    return converted.of((named, path), (overlay,)) or converted.in_folder(os.path.dirname(path)).get(path)


def _overlay_of(guest: WrittenGuest, named: str, names: set[str], folder: str) -> str:
    """Return where the overlay of a guest that is not at its path is, if it was converted as the manifest says."""
    if guest.in_place:
        return os.path.realpath(named)
    if guest.overlay_path and not unfit(guest.overlay_path):
        return resolve_folder(folder, guest.overlay_path)
    return default_overlay(named, names)


def _gone(
    guest: WrittenGuest, matches: list[str], taken: _Taken, converted: Converted, folder: str
) -> list[GoneGuest]:
    """Return the converted guests that a glob would take in if their originals were there."""
    gone: dict[str, GoneGuest] = {}
    for match in matches:
        named = resolve_folder(folder, match)
        if os.path.islink(named) and not os.path.exists(named):  # the original behind it is not there
            done = _conversion(guest, named, set(), converted, folder)
            if done is not None:
                gone[done.overlay_path] = GoneGuest(_one_of(guest, named), named, done)
    for place, fits in would_match(guest.image.path, folder):
        for original, done in converted.in_folder(place).items():
            if fits(os.path.basename(original)) and not os.path.lexists(original):
                gone.setdefault(done.overlay_path, GoneGuest(_one_of(guest, original), original, done))
    return [each for each in gone.values() if each.named not in taken.paths]


def _one_of(guest: WrittenGuest, path: str) -> WrittenGuest:
    return guest._replace(image=guest.image._replace(path=path))


def _is_overlay(guest: WrittenGuest, named: str, converted: Converted) -> bool:
    """Return whether what a glob matches is the overlay of another guest, and not a guest itself."""
    origin = converted.origin_of(named)
    if origin is None:
        return False
    return origin.original != named if origin.original else not guest.in_place


def _report_empty(guest: WrittenGuest, matched: int, folder: str, problems: Problems, *, template: bool) -> None:
    """Say why a glob gives no guest."""
    where, pattern = guest.image.path_where, show(guest.image.path)
    if problems.objects_to(where):
        return
    if not matched:
        remedy = "correct the pattern, or leave it out"
        if not template:  # then it is not known which guests were converted and are gone
            remedy = "if its guests were converted, correct the template alone; if not, the pattern"
        problems.add(where, f"no image matches {pattern} in {show(folder)}; {remedy}")
        return
    problems.add(
        where,
        f"no guest matches {pattern}: all that it matches ({matched}) is the template, a backing file, an overlay,"
        " a file of batchdiff's own, a guest that is listed by path, or excluded",
    )


def _taken(
    written: Sequence[WrittenGuest],
    listed: Sequence[AnyGuest],
    template: FoundImage | None,
    folder: str,
    images: dict[YamlPath, list[str]],
) -> _Taken:
    named = {guest.named for guest in listed}
    unplaced = [guest.named for guest in listed if not guest.written.overlay_path]
    globs = [guest for guest in written if guest.image.is_glob and not guest.overlay_path]
    unplaced += [resolve_folder(folder, path) for guest in globs for path in images[guest.where]]
    given = [guest.overlay_path for guest in written if guest.overlay_path and not guest.in_place]
    overlays = {resolve_folder(folder, path) for path in given if not unfit(path)}
    defaults = {default_overlay(path, named) for path in unplaced}
    backing = [os.path.join(folder, image.path) for guest in written for image in guest.image.backing]
    files = {identity for path in (*overlays, *backing) if (identity := identity_of(path))}
    if template:
        files |= {place.identity for place in (template.place, *template.chain)}
    # A block device has names that do not resolve to one another: /dev/vg/lv, /dev/mapper/vg-lv.
    found = [guest for guest in listed if isinstance(guest, FoundGuest)]
    files |= {guest.place.identity for guest in found if guest.place.identity[0] == "device"}
    # By path only: a default overlay's name that is a hard link of a guest must not hide that guest.
    there = {guest.place.path for guest in found}
    return _Taken(frozenset(named | there | overlays | defaults), frozenset(files))
