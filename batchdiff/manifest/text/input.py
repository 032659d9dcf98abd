"""Reading the bytes of a manifest from a file, stdin or a pipe.

::

    fleet.yaml                      relative paths are resolved from its folder
    -   /dev/stdin   <(make-it)     relative paths are resolved from the current folder
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from batchdiff.errors import ManifestError
from batchdiff.files.filenames import check_usable, shell_path
from batchdiff.files.own_documents import Document, own_document
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed
from batchdiff.quoting import NO_FOLDER_TO_LIST, show, suggestion
from batchdiff.units import MIB

MAX_BYTES = 8 * MIB
"""Enough for ten thousand guests of ten keys each."""

STDIN = "-"
_STDIN_NAMES = (STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")

_HEAD = 4096
_NAME_ONE = "Name a YAML file; docs/manifest.md has an example."
_KEY = re.compile(rb"^(?:version|template|guests)[ \t]*:", re.MULTILINE)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class ManifestFile(NamedTuple):
    """A manifest as it was read; ``shown`` is its name in messages.

    ``path`` is absolute; for a manifest that :func:`is_piped`, it is ``<stdin>`` or ``<pipe>`` in the current
    folder.
    """

    path: str
    shown: str
    content: bytes

    @property
    def folder(self) -> str:
        """The folder from which relative paths are resolved."""
        return os.path.dirname(self.path)


def is_piped(path: str) -> bool:
    """Return True if a manifest comes from a descriptor or a pipe, and thus not from a folder."""
    if path in _STDIN_NAMES or path.startswith(_DESCRIPTORS):
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def manifest_file(path: str) -> ManifestFile:
    """Read the bytes of a manifest; ``-`` stands for stdin.

    :raises ManifestError: the manifest cannot be read, is too large or is clearly something else.
    """
    shown = "<stdin>" if path == STDIN else show(path)[1:-1]
    try:
        check_usable(path)
        # Not abspath, which is wrong if ".." follows a symbolic link.
        folder = os.path.realpath("" if is_piped(path) else os.path.dirname(path) or os.curdir)
        content = _content(path)
    except FileNotFoundError:
        if is_piped(path):
            why, remedy = "that descriptor is not open", "Open it, or give the path of the manifest."
            if not _has_current_folder():
                why, remedy = "the current folder no longer exists", "Change to another folder."
            raise ManifestError(f"cannot read the manifest {shown}", why=why, remedy=remedy) from None
        raise ManifestError(shown or "the manifest", why="no such file", remedy=_near(path)) from None
    except OSError as error:
        fault = explain(error, Deed.READ, path)
        raise ManifestError(f"cannot read the manifest {shown}", why=fault.why, remedy=fault.remedy) from None
    except ValueError as error:
        raise ManifestError(f"cannot read the manifest {shown}", why=str(error), remedy=_NAME_ONE) from None
    _require_manifest(path, shown, content)
    name = os.path.basename(path)
    if is_piped(path):
        name = "<stdin>" if path in _STDIN_NAMES else "<pipe>"
    return ManifestFile(os.path.join(folder, name), shown, content)


def _content(path: str) -> bytes:
    """Return the content, cut off one byte after the limit."""
    # Check before opening, because merely opening a tape drive can move its tape.
    mode = os.fstat(0).st_mode if path == STDIN else os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder")
    if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not (path in _STDIN_NAMES and os.isatty(0))):
        raise ValueError("it is a device")
    # Opening a FIFO waits for its writer.
    fd = os.dup(0) if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _require_manifest(path: str, shown: str, content: bytes) -> None:
    head = content[:_HEAD]
    document = own_document(head)
    if document is Document.PLAN:
        name = "PLAN" if is_piped(path) else shell_path(path)
        remedy = f"`batchdiff show {name}` prints it, and `batchdiff apply {name}` carries it out."
        raise ManifestError(shown, why="it is a plan, not a manifest", remedy=remedy)
    if document is not None:
        raise ManifestError(shown, why=f"it is {document}, not a manifest", remedy=_NAME_ONE)
    if head.startswith(_UTF16):
        remedy = "Save it as UTF-8, or convert it: `iconv -f UTF-16 -t UTF-8`."
        raise ManifestError(shown, why="it is UTF-16, and a manifest must be UTF-8", remedy=remedy)
    if b"\0" in head and not _KEY.search(head):
        found = None if is_piped(path) else looks_like(path)
        what = "an image or another binary file" if found in {None, ImageFormat.RAW} else f"a {found} image"
        raise ManifestError(shown, why=f"it looks like {what}, not a manifest", remedy=_NAME_ONE)
    if len(content) > MAX_BYTES:
        raise ManifestError(shown, why="it is larger than 8 MiB, the limit for a manifest", remedy=_NAME_ONE)


def _near(path: str) -> str:
    if not path:
        return "Its name is empty."
    try:
        near = suggestion(os.path.basename(path), os.listdir(os.path.dirname(path) or os.curdir))
    except OSError:
        return NO_FOLDER_TO_LIST
    return near.replace("; d", "D", 1) if near else "Name an existing manifest."
