"""The graph of images and the files that they name.

Besides regular files, only block devices that the caller adds are read: opening a device can have side effects.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from batchdiff.files.filenames import is_possible
from batchdiff.files.identity import Identity, identity_in
from batchdiff.image.backing.heads import Heads
from batchdiff.image.backing.named_files import Named

Target: TypeAlias = Identity | str
"""A file, a resolved path at which there may be no file, or an identifier."""


_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""After any other error, such as EACCES, there may be a file."""


_NO_IMAGES = ("/proc/", "/sys/", "/etc/")
"""Files in these folders may be secret, or have side effects when read."""


class Unread(NamedTuple):
    """A file or folder that could not be read."""

    path: str
    error: OSError


class BackingGraph:
    """The images of one search, and the files that they depend on.

    ``untouched``: files that are never opened. ``raw``: images that are declared raw; a guest could forge a header
    in one, so no file is opened if only such a header names it.
    """

    def __init__(
        self,
        heads: Heads,
        untouched: frozenset[Identity] = frozenset(),
        *,
        raw: frozenset[Identity | None] = frozenset(),
    ) -> None:
        self._heads, self._untouched, self._raw = heads, untouched, raw
        self._devices: set[Identity] = set()
        self._above: dict[Target, set[Identity]] = {}
        self._paths: dict[Identity, str] = {}
        self._unread: dict[Target, Unread] = {}
        self._entered: set[tuple[Identity, str]] = set()
        self._places: dict[str, _Place] = {}

    @property
    def unread(self) -> dict[Target, Unread]:
        """The files that could not be read, and so may depend on any other file."""
        return self._unread

    def add(self, path: str) -> Unread | None:
        """Add an image, in a file or on a block device, with its backing chain.

        Return why the image itself could not be read; None if it was read, is missing or need not be read.
        """
        place = self._place(path)
        if place.identity is not None and place.is_device:
            self._devices.add(place.identity)
        pending = [path]
        while pending:
            pending += self._below(self._place(pending.pop()))
        return self._unread.get(place.path if place.identity is None else place.identity)

    def add_folder(self, folder: str, *, but: str) -> None:
        """Add the regular files in a folder, and those that links in it lead to.

        The target of a link counts as unread if it cannot be examined.

        :param folder: a path without symbolic links.
        :param but: the suffix of names to skip.
        :raises OSError: the folder cannot be examined.
        """
        with os.scandir(folder) as entries:
            listed = [entry for entry in entries if not entry.name.endswith(but)]
        for entry in listed:
            if entry.is_symlink():
                place = self._place(entry.path)
                if place.is_regular or place.error is not None:
                    self.add(entry.path)
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if self._heads.names_nothing(status):
                        continue  # most files beside guests name no other file
                    place = _Place(entry.path, identity_in(status), status, (folder,))
                    self._places.setdefault(entry.path, place)
                    self.add(entry.path)

    def dependents_of(self, targets: Iterable[Target]) -> dict[Identity, str]:
        """Return the identities of the images that depend on a target at any level, each with the image's path."""
        found: dict[Identity, str] = {}
        pending = list(targets)
        while pending:
            for image in self._above.get(pending.pop(), ()):
                if image not in found:
                    found[image] = self._paths[image]
                    pending.append(image)
        return found

    def directly_on(self, target: Target) -> frozenset[Identity]:
        """Return the images that name a target directly."""
        return frozenset(self._above.get(target, ()))

    def _place(self, path: str) -> _Place:
        known = self._places.get(path)
        if known is None:
            known = self._places[path] = _located(path)
        return known

    def _below(self, place: _Place) -> Iterator[str]:
        """Record the files that a file names; yield those to examine."""
        identity = place.identity
        if place.error is not None:
            self._unread[place.path] = Unread(place.path, place.error)
        if identity is None or identity in self._untouched or not (place.is_regular or identity in self._devices):
            return
        self._paths.setdefault(identity, place.path)
        # A file is examined only once for each folder against which its names may be resolved. This also ends
        # loops.
        folders = [folder for folder in place.folders if (identity, folder) not in self._entered]
        self._entered.update((identity, folder) for folder in folders)
        for named in self._names(place, identity) if folders else ():
            if named.name.startswith("\0"):
                self._above.setdefault(named.name, set()).add(identity)
            for path in _paths_of(named, folders):
                below = self._place(path)
                for target in (below.path, below.identity):
                    if target is not None:
                        self._above.setdefault(target, set()).add(identity)
                if not named.ends_there and identity not in self._raw and not below.path.startswith(_NO_IMAGES):
                    yield path

    def _names(self, place: _Place, identity: Identity) -> tuple[Named, ...]:
        try:
            return () if place.status is None else self._heads.names(place.path, place.status)
        except OSError as error:
            self._unread[identity] = Unread(place.path, error)
            return ()


class _Place(NamedTuple):
    """A resolved path, and the file at it, if any. ``error``: why it is unknown whether there is a file.

    ``folders``: QEMU may resolve relative names against any of these.
    """

    path: str
    identity: Identity | None
    status: os.stat_result | None
    folders: tuple[str, ...]
    error: OSError | None = None

    @property
    def is_regular(self) -> bool:
        return self.status is not None and stat.S_ISREG(self.status.st_mode)

    @property
    def is_device(self) -> bool:
        return self.status is not None and stat.S_ISBLK(self.status.st_mode)


def _located(path: str) -> _Place:
    real, folder = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
    try:
        status = os.stat(real)
    except OSError as error:
        return _Place(real, None, None, (), None if error.errno in _NO_FILE else error)
    return _Place(real, identity_in(status), status, tuple(sorted({folder, os.path.dirname(real)})))


def _paths_of(named: Named, folders: Iterable[str]) -> Iterator[str]:
    if is_possible(named.name):
        yield from dict.fromkeys(os.path.join(folder, named.name) for folder in folders)
