"""The guests that a manifest means: those that it lists by path, and what its globs take in."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchdiff.image.identity import Identity, identity_of
from batchdiff.image.names import unfit
from batchdiff.model.manifest_globs import is_own_file, matching_images
from batchdiff.model.manifest_images import FoundGuest, FoundImage, find_image
from batchdiff.model.manifest_names import default_overlay
from batchdiff.model.manifest_paths import resolve_folder
from batchdiff.model.manifest_problems import Problems, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchdiff.model.manifest_entries import WrittenGuest
    from batchdiff.model.manifest_problems import YamlPath


@dataclass(frozen=True, slots=True)
class _Taken:
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
    written: Sequence[WrittenGuest], template: FoundImage | None, folder: str, problems: Problems
) -> list[FoundGuest]:
    """All guests in the order of the manifest, a glob's sorted by path; what is not there is a problem."""
    listed = [guest for guest in written if not guest.image.is_glob]
    found = {guest.where: _found([guest], folder, problems) for guest in listed}
    matches = {
        guest.where: matching_images(guest.image, folder, problems) for guest in written if guest.image.is_glob
    }
    taken = _taken(written, [guest for each in found.values() for guest in each], template, folder, matches)
    for guest in written:
        if guest.image.is_glob:
            expanded = _untaken(guest, matches[guest.where], taken, folder, problems)
            found[guest.where] = _found(expanded, folder, problems)
    return [each for guest in written for each in found[guest.where]]


def _found(written: Iterable[WrittenGuest], folder: str, problems: Problems) -> list[FoundGuest]:
    return [FoundGuest(guest, image) for guest in written if (image := find_image(guest.image, folder, problems))]


def _untaken(
    guest: WrittenGuest, matches: list[str], taken: _Taken, folder: str, problems: Problems
) -> list[WrittenGuest]:
    kept = [path for path in matches if not taken.has(resolve_folder(folder, path))]
    if matches and not kept:
        problems.add(
            guest.image.path_where,
            f"no guest matches {show(guest.image.path)}: all that it matches ({len(matches)}) is the "
            "template, a backing file, an overlay, a file of batchdiff's own, or a guest that is listed by path",
        )
    return [replace(guest, image=replace(guest.image, path=path)) for path in kept]


def _taken(
    written: Sequence[WrittenGuest],
    listed: Sequence[FoundGuest],
    template: FoundImage | None,
    folder: str,
    matches: dict[YamlPath, list[str]],
) -> _Taken:
    named = {guest.place.named for guest in listed}
    unplaced = [guest.place.named for guest in listed if not guest.written.overlay_path]
    globs = [guest for guest in written if guest.image.is_glob and not guest.overlay_path]
    unplaced += [resolve_folder(folder, path) for guest in globs for path in matches[guest.where]]
    given = [guest.overlay_path for guest in written if guest.overlay_path and not guest.in_place]
    overlays = {resolve_folder(folder, path) for path in given if not unfit(path)}
    defaults = {default_overlay(path, named) for path in unplaced}
    backing = [os.path.join(folder, image.path) for guest in written for image in guest.image.backing]
    files = {identity for path in (*overlays, *backing) if (identity := identity_of(path))}
    if template:
        files |= {place.identity for place in (template.place, *template.chain)}
    # A block device has names that do not resolve to one another: /dev/vg/lv, /dev/mapper/vg-lv.
    files |= {guest.place.identity for guest in listed if guest.place.identity[0] == "device"}
    # By path only: a default overlay's name that is a hard link of a guest must not hide that guest.
    paths = named | {guest.place.path for guest in listed} | overlays | defaults
    return _Taken(frozenset(paths), frozenset(files))
