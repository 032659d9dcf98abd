"""Which images rest on a file that may have to go: asked at planning, and again right before each file goes.

::

    where               the folder of the file, the folders of the plan, and those of the overlays that the file's
                        own sidecar names
    which images        every regular file there whose head names another one, whatever it is called, and the
                        qcow2 guests of the plan, also on block devices; whole chains
    who is one file     by identity, also through links; a name that the file had a moment ago counts by its path

Each call looks anew, so that an image made a second ago is seen.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Iterator

from batchdiff.image.heads import Heads
from batchdiff.image.identity import Identity, identity_of
from batchdiff.image.resting import Ground, RestingImages, Unread
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model import own_names
from batchdiff.model.image_folders import folders_of_manifest, folders_of_plan
from batchdiff.model.manifest import Manifest
from batchdiff.model.plan import Plan
from batchdiff.model.sidecar import read_sidecar

_ASIDE = (own_names.QUARANTINE, own_names.OVERLAY_ASIDE, own_names.DELETING)


UNREAD = "perhaps "
"""How the text for an image begins that cannot be read, and so might rest on anything."""


class Forbidden(enum.Enum):
    """Whether an image counts that this user may not read, and that might rest on anything."""

    COUNTS = "counts"
    """For the moment before a file goes."""

    IGNORED = "ignored"
    """For planning: where many users share a folder, hardly anyone may read all of it."""


class Dependents:
    """Looks for what rests on files, in these folders and wherever each file itself leads.

    ``images``: those that are looked at in any case, wherever they are, also on block devices. ``raw``: those that
    are declared raw, and so rest on nothing: if the disk cannot give their heads, the other guests go on.
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
    ) -> list[str]:
        """Return the images that rest on a file at any level, sorted; a text for one that cannot be read.

        ``former``: names that the file had a moment ago; whatever names these rests on it, too. ``but``: images
        that may rest on it; what rests on these counts. The file itself is never opened.
        """
        own = identity_of(path)
        look = _Look(self._heads, frozenset() if own is None else frozenset({own}), self._raw)
        look.take_in_all(self._folders, self._images)
        look.take_in(path, former)
        return look.answer(path, former, but, forbidden)

    def on_each(self, paths: Iterable[str], *, forbidden: Forbidden = Forbidden.COUNTS) -> dict[str, list[str]]:
        """Return the same for many files, with one look, which may open them: they must not be held."""
        paths = list(paths)
        look = _Look(self._heads, frozenset(), self._raw)
        look.take_in_all(self._folders, self._images)
        for path in paths:
            look.take_in(path, ())
        return {path: look.answer(path, (), (), forbidden) for path in paths}


def dependents_in_manifest(manifest: Manifest) -> Dependents:
    """Look for what rests on the guests of a manifest."""
    guests = [guest.image for guest in (*manifest.guests, *manifest.left_out)]
    return _dependents(folders_of_manifest(manifest), guests)


def dependents_in_plan(plan: Plan) -> Dependents:
    """Look for what rests on the guests or overlays of a plan."""
    return _dependents(folders_of_plan(plan), [guest.source for guest in plan.guests])


def _dependents(folders: list[str], guests: list[ImageSource]) -> Dependents:
    paths = {kind: [guest.path for guest in guests if guest.format is kind] for kind in ImageFormat}
    return Dependents(folders, images=paths[ImageFormat.QCOW2], raw=paths[ImageFormat.RAW])


class _Look:
    """One look around: which folders and sidecars were looked into, and what was found."""

    def __init__(self, heads: Heads, untouched: frozenset[Identity], raw: Iterable[str]) -> None:
        self._raw = set(map(identity_of, raw))
        self._resting = RestingImages(heads, untouched)
        self._folders: set[str] = set()
        self._closed: list[Unread] = []
        self._doubtful: dict[str, list[str]] = {}

    def take_in_all(self, folders: Iterable[str], images: Iterable[str]) -> None:
        """Take in what is looked into for every file."""
        self._take_in_folders(folders)
        for image in images:
            self._resting.take_in(image)

    def take_in(self, path: str, former: Iterable[str]) -> None:
        """Take in what is looked into for this file."""
        self._doubtful[path] = []
        self._take_in_folders([os.path.realpath(os.path.dirname(path))])
        for sidecar in _sidecars_of((path, *former)):
            self._take_in_sidecar(path, sidecar)

    def answer(self, path: str, former: Iterable[str], but: Iterable[str], forbidden: Forbidden) -> list[str]:
        """Return what rests on a file that was taken in."""
        own = identity_of(path)
        left_out = {own, *map(identity_of, but)}
        grounds: list[Ground] = [os.path.realpath(name) for name in (path, *former)]
        grounds += [own] if own is not None else []
        found = [name for image, name in self._resting.on(grounds).items() if image not in left_out]
        unread = [each for image, each in self._resting.unread.items() if image not in left_out | self._raw]
        doubtful = {_unread(each) for each in [*unread, *self._closed] if _counts(each, forbidden)}
        return sorted(found) + sorted(doubtful | set(self._doubtful[path]))

    def _take_in_folders(self, folders: Iterable[str]) -> None:
        for folder in folders:
            if folder in self._folders:
                continue
            self._folders.add(folder)
            try:
                self._resting.take_in_folder(folder, but=own_names.TEMPORARY)
            except (FileNotFoundError, NotADirectoryError):
                continue  # so nothing is in it
            except OSError as error:
                self._closed.append(Unread(folder, error))

    def _take_in_sidecar(self, path: str, sidecar: str) -> None:
        """An overlay that moved may be beside where it was, so its folder is looked into as well."""
        if not os.path.lexists(sidecar):
            return
        known = read_sidecar(sidecar)
        if known is None:
            self._doubtful[path].append(f"whatever {sidecar} names, which cannot be read")
            return
        overlays = [overlay for overlay in known.overlays if "\0" not in overlay]
        for overlay in overlays:
            unread = self._resting.take_in(overlay)
            if unread is not None:
                self._doubtful[path].append(_unread(unread))
        self._take_in_folders(sorted({os.path.realpath(os.path.dirname(each)) for each in overlays}))


def _sidecars_of(names: Iterable[str]) -> Iterator[str]:
    """Yield where the sidecar of a file is: beside its own name, also while the file is out of the way."""
    own = {name.removesuffix(suffix) for name in names for suffix in ("", *_ASIDE)}
    yield from (name + own_names.SIDECAR for name in sorted(own))


def _counts(unread: Unread, forbidden: Forbidden) -> bool:
    return forbidden is Forbidden.COUNTS or not isinstance(unread.error, PermissionError)


def _unread(unread: Unread) -> str:
    return f"{UNREAD}{unread.path}, which cannot be read ({unread.error.strerror or unread.error})"
