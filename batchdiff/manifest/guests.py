"""The guests of a manifest: those that it lists by path, and those that its globs match."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from batchdiff.files.filenames import unfit
from batchdiff.files.identity import Identity, identity_of
from batchdiff.image.backing.extents import extents_among
from batchdiff.image_source import ImageFormat
from batchdiff.manifest.converted import ConvertedGuests, Done, GoneGuest
from batchdiff.manifest.globs import glob_matches, is_own_file, searched, would_match
from batchdiff.manifest.images import FoundGuest, FoundImage, find_image
from batchdiff.manifest.names import default_data_file, default_overlay, placed
from batchdiff.manifest.paths import is_image, missing_format, resolve_folder
from batchdiff.manifest.text.problems import Problems
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchdiff.manifest.excludes import Excluded
    from batchdiff.manifest.text.problems import YamlPath
    from batchdiff.manifest.text.written import WrittenGuest

AnyGuest: TypeAlias = FoundGuest | GoneGuest


class _Taken(NamedTuple):
    """Absolute paths, and identities, that globs leave out."""

    paths: frozenset[str]
    files: frozenset[Identity]

    def has(self, named: str) -> bool:
        return (
            is_own_file(named)
            or named in self.paths
            or os.path.realpath(named) in self.paths
            or identity_of(named) in self.files
        )


class GuestFinder:
    """A finder of one manifest's guests."""

    def __init__(
        self, template: FoundImage | None, converted: ConvertedGuests, folder: str, problems: Problems
    ) -> None:
        self._template = template
        self._converted = converted
        self._folder = folder
        self._problems = problems

    def guests(self, written: Sequence[WrittenGuest], excluded: Excluded) -> list[AnyGuest]:
        """Return the usable guests, sorted by entry and, within a glob, by path; report problems."""
        # Listed guests first: globs leave them out.
        listed = [guest for guest in written if not guest.image.is_glob]
        names = {self._resolved(each.image.path) for each in listed if not unfit(each.image.path)}
        found = {each.where: list(self._listed(each, names)) for each in listed}
        # Dangling links are needed as well: they may be guests whose originals are gone.
        globs = [guest for guest in written if guest.image.is_glob]
        matches = {
            guest.where: glob_matches(guest.image.path, guest.image.path_where, self._folder, self._problems)
            for guest in globs
        }
        images = {where: [path for path in paths if self._is_image(path)] for where, paths in matches.items()}
        matched = {where: len(paths) for where, paths in images.items()}
        # Drop excluded images first: the default overlay path of one must not hide a guest at that path.
        for where, paths in images.items():
            images[where] = [path for path in paths if not excluded.has(self._resolved(path))]
        taken = self._taken(written, [each for some in found.values() for each in some], images)
        extents = self._extents(written, images)
        for guest in globs:
            # Overlays of earlier plans are dropped only below: a glob that matches nothing else is not an error.
            untaken = [
                path
                for path in images[guest.where]
                if not taken.has(self._resolved(path)) and identity_of(self._resolved(path)) not in extents
            ]
            gone = [
                each for each in self._gone(guest, matches[guest.where], taken) if not excluded.has(each.named)
            ]
            data = {default_data_file(each.done.overlay_path) for each in gone}
            has_data = guest.options.data_file is not None
            kept = [
                each
                for path in untaken
                if not self._is_overlay(each := self._placed(_one_of(guest, path)), self._resolved(path))
                and not (has_data and self._resolved(path) in data)
            ]
            if not gone and not untaken:
                self._report_empty(guest, matched[guest.where])
            found[guest.where] = _in_order(self._found(kept), gone)
        return [each for guest in written for each in found[guest.where]]

    def _resolved(self, path: str) -> str:
        return resolve_folder(self._folder, path)

    def _placed(self, guest: WrittenGuest) -> WrittenGuest:
        if guest.layout is None:
            return guest  # do not resolve its path again: a glob may have 100,000 matches
        template = self._template.source.path if self._template else None
        return placed(guest, self._resolved(guest.image.path), template)

    def _is_image(self, path: str) -> bool:
        return is_image(os.path.join(self._folder, path))

    def _found(self, written: Iterable[WrittenGuest]) -> list[AnyGuest]:
        images = ((guest, find_image(guest.image, self._folder, self._problems)) for guest in written)
        return [FoundGuest(guest, image) for guest, image in images if image]

    def _listed(self, guest: WrittenGuest, names: set[str]) -> Iterator[AnyGuest]:
        path = guest.image.path
        guest = guest if unfit(path) else self._placed(guest)
        if unfit(path) or os.path.exists(os.path.join(self._folder, path)):
            yield from self._found([guest])
            return
        named = self._resolved(path)
        done = self._conversion(guest, named, names)
        if (
            done is None
            and not self._converted.can_know
            and os.path.lexists(self._overlay_of(guest, named, names))
        ):
            return  # only the template could show whether it was converted, and the template has a problem
        if done is None:
            yield from self._found([guest])
        elif guest.image.format is None:
            self._problems.add(guest.where, missing_format(self._folder, path))
        else:
            yield GoneGuest(guest, named, done)

    def _conversion(self, guest: WrittenGuest, named: str, names: set[str]) -> Done | None:
        path = os.path.realpath(named)  # ``named`` may be a link that outlives the original
        done = self._converted.of((named, path), (self._overlay_of(guest, named, names),))
        # The manifest may now name another path for the overlay.
        return done or self._converted.in_folder(os.path.dirname(path)).get(path)

    def _overlay_of(self, guest: WrittenGuest, named: str, names: set[str]) -> str:
        if guest.in_place:
            return os.path.realpath(named)
        if guest.overlay_path and not unfit(guest.overlay_path):
            return self._resolved(guest.overlay_path)
        return default_overlay(named, names, guest.options.format)

    def _gone(self, guest: WrittenGuest, matches: list[str], taken: _Taken) -> list[GoneGuest]:
        """Return a glob's converted guests whose originals are gone."""
        gone: dict[str, GoneGuest] = {}
        for match in matches:
            named = self._resolved(match)
            if os.path.islink(named) and not os.path.exists(named):  # a link whose original is gone
                done = self._conversion(self._placed(_one_of(guest, named)), named, set())
                if done is not None:
                    gone[done.overlay_path] = GoneGuest(_one_of(guest, named), named, done)
        for place, fits in would_match(guest.image.path, self._folder):
            for original, done in self._converted.in_folder(place).items():
                if fits(os.path.basename(original)) and not os.path.lexists(original):
                    gone.setdefault(done.overlay_path, GoneGuest(_one_of(guest, original), original, done))
        return [each for each in gone.values() if each.named not in taken.paths]

    def _is_overlay(self, guest: WrittenGuest, named: str) -> bool:
        if guest.rethin:
            return False
        origins = self._converted.origins_of(named)
        return any(each.original != named if each.original else not guest.in_place for each in origins)

    def _report_empty(self, guest: WrittenGuest, matched: int) -> None:
        where, pattern = guest.image.path_where, show(guest.image.path)
        if self._problems.objects_to(where):
            return
        if matched:
            each = "its only match" if matched == 1 else f"each of its {matched} matches"
            why = (
                f"no guest matches {pattern}: {each} is the template, a backing file, an extent, an overlay, a"
                " data file, a secret file, a file of batchdiff's own, a guest that is listed by path, or an"
                " excluded image; correct the pattern, or leave it out"
            )
        else:
            remedy = "correct the pattern, or leave it out"
            if self._template is None:  # then it is unknown which guests were converted and are gone
                remedy = (
                    "if the pattern used to match guests that have been converted, only the template entry is"
                    " wrong; otherwise, correct the pattern"
                )
            why = f"no image matches {pattern}{searched(guest.image.path, self._folder)}; {remedy}"
        self._problems.add(where, why)

    def _taken(
        self, written: Sequence[WrittenGuest], listed: Sequence[AnyGuest], images: dict[YamlPath, list[str]]
    ) -> _Taken:
        existing = [guest for guest in listed if isinstance(guest, FoundGuest)]
        guests = {guest.named for guest in listed} | {guest.place.path for guest in existing}
        overlays = self._written_overlays(written)
        # Default overlays are recognised only by path: a guest's hard link at such a path must not hide the guest.
        defaults = self._default_overlays(written, listed, images)
        # Written overlays, backing files, secret files and the template are recognised by identity: a glob may
        # find them by any name or link.
        backing = [os.path.join(self._folder, image.path) for guest in written for image in guest.image.backing]
        secrets = [self._resolved(path) for path in self._secret_files(written)]
        files = {identity for path in (*overlays, *backing, *secrets) if (identity := identity_of(path))}
        if self._template:
            files |= {place.identity for place in (self._template.place, *self._template.chain)}
        # A block device has names that do not resolve to one another: /dev/vg/lv, /dev/mapper/vg-lv.
        files |= {guest.place.identity for guest in existing if guest.place.identity[0] == "device"}
        data_files = self._data_files(written, listed, images)
        return _Taken(frozenset(guests | overlays | defaults | data_files), frozenset(files))

    def _extents(self, written: Sequence[WrittenGuest], images: dict[YamlPath, list[str]]) -> frozenset[Identity]:
        vmdks = [guest for guest in written if guest.image.format is ImageFormat.VMDK]
        paths = [path for guest in vmdks for path in images.get(guest.where, [guest.image.path])]
        if not vmdks:
            return frozenset()
        matches = (path for found in images.values() for path in found)
        files, named = ([self._resolved(path) for path in each if not unfit(path)] for each in (matches, paths))
        return extents_among(files, named)

    def _secret_files(self, written: Sequence[WrittenGuest]) -> set[str]:
        images = [image for guest in written for image in (guest.image, *guest.image.backing)]
        found = {image.secret_file for image in images}
        if self._template:
            source = self._template.source
            found |= {image.secret_file for image in (source, *source.backing)}
        found |= {guest.options.encryption.secret_file for guest in written if guest.options.encryption}
        return {path for path in found if path and not unfit(path)}

    def _written_overlays(self, written: Sequence[WrittenGuest]) -> set[str]:
        to_convert = [guest for guest in written if guest.gets_overlay]
        paths = [guest.overlay_path for guest in to_convert if guest.overlay_path and not guest.in_place]
        return {self._resolved(path) for path in paths if not unfit(path)}

    def _data_files(
        self, written: Sequence[WrittenGuest], listed: Sequence[AnyGuest], images: dict[YamlPath, list[str]]
    ) -> set[str]:
        """Return the data files that the manifest names, and the default ones of all overlays with a data file."""
        paths = [guest.options.data_file for guest in written if guest.options.data_file]
        named = [(guest.written, guest.named) for guest in listed]
        named += [
            (self._placed(_one_of(guest, path)), self._resolved(path))
            for guest in written
            if guest.image.is_glob
            for path in images[guest.where]
        ]
        names = {guest.named for guest in listed}
        named = [each for each in named if each[0].gets_overlay and each[0].options.data_file is not None]
        overlays = [self._overlay_of(guest, path, names) for guest, path in named]
        return {self._resolved(path) for path in paths if not unfit(path)} | set(map(default_data_file, overlays))

    def _default_overlays(
        self, written: Sequence[WrittenGuest], listed: Sequence[AnyGuest], images: dict[YamlPath, list[str]]
    ) -> set[str]:
        """Return the overlay paths that are defaults or determined by a layout."""
        globs = [each for each in written if each.image.is_glob and each.gets_overlay and not each.overlay_path]
        matched = [
            (self._resolved(path), self._placed(_one_of(guest, path)))
            for guest in globs
            for path in images[guest.where]
        ]
        everyone = [*((each.named, each.written) for each in listed if each.written.gets_overlay), *matched]
        names = {guest.named for guest in listed}
        laid_out = {guest.overlay_path for _, guest in everyone if guest.layout and not guest.in_place}
        plain = {
            default_overlay(path, names, guest.options.format)
            for path, guest in everyone
            if not guest.layout and not guest.overlay_path
        }
        return plain | {path for path in laid_out if path}


def _in_order(there: list[AnyGuest], gone: list[GoneGuest]) -> list[AnyGuest]:
    # If no guest is gone, keep the order of the glob, which can differ from that of resolved paths.
    return sorted([*there, *gone], key=lambda each: each.named) if gone else there


def _one_of(guest: WrittenGuest, path: str) -> WrittenGuest:
    return guest._replace(image=guest.image._replace(path=path, pattern=guest.image.path))
