"""The search for images that depend on a file.

::

    folders     those of the file, the plan or manifest, its images, and the overlays that the file's sidecar lists
    images      regular files there whose headers name other files, guests that are not raw, and images below these
    matching    by identity; by path, even a former one; by the file's identifier, which other programs record
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchdiff.dependents.image_folders import folders_of_manifest, folders_of_plan
from batchdiff.files import own_files
from batchdiff.files.filenames import is_possible
from batchdiff.files.identity import Identity, identity_of
from batchdiff.image.backing.heads import Heads, identifier_of
from batchdiff.image.backing.links import BackingGraph, Target, Unread
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import read_sidecar

_SNAPSHOTS = "Snapshots"
"""VirtualBox keeps its differencing images in this folder beside a disk."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors for a folder in which no image can be opened."""

_ASIDE = (own_files.QUARANTINE, own_files.OVERLAY_ASIDE, own_files.DELETING)


class Forbidden(enum.Enum):
    """The treatment of an image or folder that this user is not allowed to read.

    Unreadable sidecars, and unreadable overlays that a sidecar names, are reported in any case.
    """

    COUNTS = "counts"
    IGNORED = "ignored"
    """Few users are allowed to read every file in a shared folder."""


class DependentImages(NamedTuple):
    """The paths of images that depend on a file, and phrases about what cannot be read and may depend on it."""

    paths: list[str]
    doubtful: list[str]

    @property
    def words(self) -> list[str]:
        """Paths and phrases, for a message."""
        return [*self.paths, *(f"perhaps {each}" for each in self.doubtful)]


class Dependents:
    """A search for images that depend on a file: in the given folders, and in those of the file and its overlays.

    ``images``: examined wherever they are, even on block devices. ``raw``: images that are declared raw, and so
    have no backing file.
    """

    def __init__(self, folders: Iterable[str], *, images: Iterable[str] = (), raw: Iterable[str] = ()) -> None:
        self._raw = sorted(set(raw))
        self._folders = sorted({os.path.realpath(folder) for folder in folders})
        self._images = sorted(set(images))
        self._heads = Heads()

    def on(
        self,
        path: str,
        *,
        former: Iterable[str] = (),
        but: Iterable[str] = (),
        forbidden: Forbidden = Forbidden.COUNTS,
        identifier: str | None = None,
    ) -> DependentImages:
        """Return the images that have a file anywhere in their chain; the file itself is never opened.

        ``former``: names that the file had a moment ago. ``but``: images that are allowed to depend on the file;
        images on top of these are still reported. ``identifier``: the file's own, which differencing images of
        other programs record.
        """
        own = identity_of(path)
        look = _Look(self._heads, frozenset() if own is None else frozenset({own}), self._raw)
        look.add_all(self._folders, self._images)
        look.add(path, former)
        return look.answer(path, former, but, forbidden, identifier)

    def on_each(
        self, paths: Iterable[str], *, forbidden: Forbidden = Forbidden.COUNTS
    ) -> dict[str, DependentImages]:
        """Return the images that depend on each file, by the file's path.

        The files may be opened, so the caller must not hold any of them.
        """
        paths = list(paths)
        look = _Look(self._heads, frozenset(), self._raw)
        look.add_all(self._folders, self._images)
        for path in paths:
            look.add(path, ())
        # Raw images have no identifier, so they need not be read.
        identifiers = {path: _identifier_at(path) for path in set(paths) & set(self._images)}
        return {path: look.answer(path, (), (), forbidden, identifiers.get(path)) for path in paths}


def dependents_in_manifest(manifest: Manifest) -> Dependents:
    """Return a search in the folders of a manifest, and among its guests."""
    guests = [guest.image for guest in (*manifest.guests, *manifest.left_out)]
    return _dependents(folders_of_manifest(manifest), guests)


def dependents_in_plan(plan: Plan) -> Dependents:
    """Return a search in the folders of a plan, and among its guests, even those left out."""
    return _dependents(folders_of_plan(plan), [*(guest.source for guest in plan.guests), *plan.left_out])


def _dependents(folders: list[str], guests: list[ImageSource]) -> Dependents:
    raw = [guest.path for guest in guests if guest.format is ImageFormat.RAW]
    return Dependents(folders, images={guest.path for guest in guests}.difference(raw), raw=raw)


class _Look:
    def __init__(self, heads: Heads, untouched: frozenset[Identity], raw: Iterable[str]) -> None:
        self._raw = set(map(identity_of, raw))
        self._graph = BackingGraph(heads, untouched, raw=frozenset(self._raw))
        self._folders: set[str] = set()
        self._closed: list[Unread] = []
        self._doubtful: dict[str, list[str]] = {}

    def add_all(self, folders: Iterable[str], images: Iterable[str]) -> None:
        self._add_folders(folders)
        for image in images:
            self._graph.add(image)

    def add(self, path: str, former: Iterable[str]) -> None:
        self._doubtful[path] = []
        folder = os.path.realpath(os.path.dirname(path))
        differences = os.path.join(folder, _SNAPSHOTS)
        self._add_folders([folder, differences] if os.path.isdir(differences) else [folder])
        for sidecar in _sidecars_of((path, *former)):
            self._add_sidecar(path, sidecar)

    def answer(
        self,
        path: str,
        former: Iterable[str],
        but: Iterable[str],
        forbidden: Forbidden,
        identifier: str | None = None,
    ) -> DependentImages:
        own = identity_of(path)
        left_out = {own, *map(identity_of, but)}
        targets: list[Target] = [os.path.realpath(name) for name in (path, *former)]
        targets += [each for each in (own, identifier) if each is not None]
        found = [name for image, name in self._graph.dependents_of(targets).items() if image not in left_out]
        unread = [each for image, each in self._graph.unread.items() if image not in left_out | self._raw]
        doubtful = {_unread(each) for each in unread if _counts(each, forbidden)}
        doubtful |= {f"an image in {_unread(each)}" for each in self._closed if _counts(each, forbidden)}
        return DependentImages(sorted(found), sorted(doubtful | set(self._doubtful[path])))

    def _add_folders(self, folders: Iterable[str]) -> None:
        for folder in folders:
            if folder in self._folders:
                continue
            self._folders.add(folder)
            try:
                self._graph.add_folder(folder, but=own_files.TEMPORARY)
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    self._closed.append(Unread(folder, error))

    def _add_sidecar(self, path: str, sidecar: str) -> None:
        """Search a sidecar's overlays, and their folders: an overlay may have been renamed there."""
        if not os.path.lexists(sidecar):
            return
        known = read_sidecar(sidecar)
        if known is None:
            self._doubtful[path].append(f"an overlay listed in {sidecar} (unreadable)")
            return
        overlays = [overlay for overlay in known.overlays if is_possible(overlay)]
        for overlay in overlays:
            unread = self._graph.add(overlay)
            if unread is not None:
                self._doubtful[path].append(_unread(unread))
        self._add_folders(sorted({os.path.realpath(os.path.dirname(each)) for each in overlays}))


def _sidecars_of(names: Iterable[str]) -> Iterator[str]:
    """Yield the possible sidecars of a file that may have been set aside."""
    own = {name.removesuffix(suffix) for name in names for suffix in ("", *_ASIDE)}
    yield from (name + own_files.SIDECAR for name in sorted(own))


def _identifier_at(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return identifier_of(fd)
        finally:
            os.close(fd)
    except OSError:  # without an identifier, only path and identity can match
        return None


def _counts(unread: Unread, forbidden: Forbidden) -> bool:
    return forbidden is Forbidden.COUNTS or not isinstance(unread.error, PermissionError)


def _unread(unread: Unread) -> str:
    return f"{unread.path} (unreadable: {unread.error.strerror or unread.error})"
