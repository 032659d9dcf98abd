"""Find files that may be images: all that are named; in folders and globs, those that look like images.

::

    web01.img, base.qcow2    an image's suffix: always           data            begins like an image: yes
    web01                    raw, >= 1 MiB, boot sector: yes     notes.txt       neither: no
    web01.batchdiff-tmp      batchdiff's own: never              loop -> loop    a broken link: no

Folders are searched with all folders in them, but not through links to folders, which may lead in a circle. Globs
follow such links.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.errors import UsageError
from batchdiff.files import own_files
from batchdiff.files.filenames import unfit, why_unfit
from batchdiff.files.identity import Identity, identity_in
from batchdiff.image.files import LOOP, content_size
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import reason
from batchdiff.linux.device_names import image_path
from batchdiff.linux.permissions import Deed, lacking_access
from batchdiff.manifest.globs import MAX_MATCHES
from batchdiff.manifest.names import without_suffix
from batchdiff.units import MIB

_BOOT_MARK, _BOOT_MARK_AT = b"\x55\xaa", 510
"""On every disk with an MBR or GPT (UEFI specification, 5.2)."""

_NO_DISKS = (".iso",)
"""Files with these suffixes can begin like a disk."""

_LINK_LOOP = "it is a symbolic link that cannot be followed: links lead in a circle, or there are too many of them"

_NARROWER = "Name folders (their subfolders are searched, too), or write narrower patterns."


class FileToSample(NamedTuple):
    """A file that may be an image. ``format``: as declared by a VM's definition, if any.

    ``domain``: the libvirt domain that uses the file, and how.
    """

    path: str
    format: ImageFormat | None = None
    domain: str = ""


class FileSearch:
    """The files to sample, and those left out. A file with several names is sampled once.

    ``ignored``: how many files do not look like images.
    """

    def __init__(self) -> None:
        self.files: list[FileToSample] = []
        self.exclusions: list[Exclusion] = []
        self.ignored = 0
        self._seen: dict[Identity, str] = {}
        self._left_out: set[str] = set()

    def add(self, file: FileToSample) -> None:
        """Add a file, or record why it is left out."""
        status = self._status(file.path)
        if status is None:
            return
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            self._leave_out(file.path, Cause.UNREADABLE, "it is not a regular file or block device")
        elif file.path.endswith(own_files.ALL):
            self._leave_out(file.path, Cause.OWN, "it is one of batchdiff's own files; see `batchdiff status`")
        elif odd := why_unfit(path := image_path(file.path)):
            self._leave_out(file.path, Cause.UNREADABLE, f"its path contains {odd}; rename the file or the folder")
        else:
            self._add_once(file._replace(path=path), identity_in(status))

    def add_path(self, path: str) -> None:
        """Add a file; for a folder or a glob, add those of its files that look like images.

        :raises UsageError: the path does not exist, or the glob has no matches or too many.
        """
        if os.path.isdir(path):
            self._add_folder(path)
        elif os.path.lexists(path) or (not glob.has_magic(path) and lacking_access(Deed.READ, path)):
            self.add(FileToSample(path))
        else:
            matches = list(islice(glob.iglob(path, recursive=True), MAX_MATCHES + 1))
            if not matches and not self._add_closed_folders(path):
                what = f"{path} matches no file" if glob.has_magic(path) else f"there is no file {path}"
                raise UsageError(what, remedy="Name a folder with images, or the images themselves.")
            if len(matches) > MAX_MATCHES:
                raise UsageError(f"{path} matches more than {MAX_MATCHES} files", remedy=_NARROWER)
            for match in sorted(set(matches)):  # ``**`` can yield a name twice
                if not os.path.isdir(match) and self._is_wanted(match):
                    self.add(FileToSample(match))

    def _add_closed_folders(self, pattern: str) -> bool:
        closed = dict(_closed_folders(pattern))
        for folder, why in closed.items():
            self._leave_out(folder, Cause.UNREADABLE, f"the folder cannot be searched: {why}")
        return bool(closed)

    def _add_folder(self, folder: str) -> None:
        for path in sorted(self._files_in(folder)):
            if unfit(path):
                why = f"its path contains {why_unfit(path)}; rename the file or the folder"
                self._leave_out(path, Cause.UNREADABLE, why)
            elif self._is_wanted(path):
                self.add(FileToSample(path))

    def _files_in(self, folder: str) -> Iterator[str]:
        def note(error: OSError) -> None:
            self._leave_out(str(error.filename), Cause.UNREADABLE, f"the folder cannot be listed: {reason(error)}")

        for place, _, names in os.walk(folder, onerror=note):
            yield from (os.path.join(place, name) for name in names if not name.endswith(own_files.ALL))

    def _is_wanted(self, path: str) -> bool:
        if without_suffix(path) != path:
            return True
        if os.path.islink(path) and not os.path.exists(path):
            return False
        wanted = _begins_like_an_image(path)
        self.ignored += not wanted
        return wanted

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(path)
        except (OSError, ValueError) as error:
            self._leave_out(path, Cause.UNREADABLE, _why_not_found(path, error))
        return None

    def _add_once(self, file: FileToSample, identity: Identity) -> None:
        first = self._seen.setdefault(identity, file.path)
        if first is file.path:
            self.files.append(file)
        elif first != file.path:
            how = " (a hard link or a bind mount)" if identity[0] == "file" else ""
            self._leave_out(file.path, Cause.SAME_FILE, f"it is {first} under another name{how}")

    def _leave_out(self, path: str, cause: Cause, why: str) -> None:
        found = Exclusion(_absolute(path), cause, why)
        if found.path not in self._left_out:
            self._left_out.add(found.path)
            self.exclusions.append(found)


def find_files(paths: Iterable[str], more: Iterable[FileToSample] = ()) -> FileSearch:
    """Search ``paths`` (files, folders and globs), and add ``more``: the files that definitions name.

    :raises UsageError: a path does not exist, or a glob has no matches or too many.
    """
    search = FileSearch()
    # First, so that a declared format counts even if the file is found again.
    for file in more:
        search.add(file)
    for path in paths:
        search.add_path(path)
    return search


def _absolute(path: str) -> str:
    """Return an absolute path without links, except in its last component."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _why_not_found(path: str, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    is_link = os.path.islink(path)
    if error.errno == errno.ELOOP:
        return _LINK_LOOP if is_link else LOOP
    if error.errno == errno.ENOENT and is_link:
        return f"it is a symbolic link to {os.path.realpath(path)}, which does not exist"
    if error.errno == errno.ENOENT:
        return "it or a folder above it does not exist"
    why = reason(error, path=_absolute(path))
    return f"it is a symbolic link that cannot be followed ({why})" if is_link else why


def _closed_folders(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the folders of a glob that this user is not allowed to search, with the reason."""
    parts = os.path.join(glob.escape(os.getcwd()), pattern).split("/")
    for at in range(1, len(parts)):
        is_listed = glob.has_magic(parts[at]) or parts[at - 1] == "**"
        for found in islice(glob.iglob("/".join(parts[:at]) + "/", recursive=True), MAX_MATCHES):
            folder = os.path.abspath(found)
            entered = lacking_access(Deed.READ, os.path.join(folder, "x"))
            if why := entered or (is_listed and lacking_access(Deed.READ, folder)):
                yield folder, why


def _begins_like_an_image(path: str) -> bool:
    found = None if path.lower().endswith(_NO_DISKS) else looks_like(path)
    if found is not ImageFormat.RAW:
        return found is not None
    try:
        with open(path, "rb") as file:
            head = file.read(_BOOT_MARK_AT + len(_BOOT_MARK))
            marked = head.endswith(_BOOT_MARK) and len(head) > _BOOT_MARK_AT
            return marked and content_size(file.fileno()) >= MIB
    except OSError:
        return False
