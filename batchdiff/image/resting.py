"""Which files a qcow2 file rests on, as the headers say, level by level to the end of its chain.

::

    c.qcow2  ->  mid.qcow2  ->  a.img         a.img and mid.qcow2 must not go while c.qcow2 is there

Nothing is opened but regular files, for their headers alone. Files are told apart by identity, not by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.image.identity import Identity, identity_of
from batchdiff.image.opening import MAX_CHAIN
from batchdiff.qcow2.backing import named_backing
from batchdiff.qcow2.header import MAGIC, FormatError, claimed_cluster_size

_LONGEST_HEADER = 2 << 20
"""The largest cluster, in which the header and the name of the backing file are."""


def files_below(path: str) -> Iterator[Identity]:
    """The files that a qcow2 file rests on, at every level, the next one first.

    It ends where a file is not there or no qcow2 image, and where it would go in circles.
    """
    seen: set[Identity] = set()
    level = [os.path.realpath(path)]
    while level and len(seen) < MAX_CHAIN:
        above, level = level, []
        for below in (each for one in above for each in _below(one)):
            identity = identity_of(below.path)
            if identity is not None and identity not in seen:
                seen.add(identity)
                yield identity
                level += [] if below.ends_there else [below.path]


def qcow2_files(folder: str) -> list[str]:
    """The regular files of a folder that begin as qcow2 images do, sorted; none where it cannot be listed."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [entry.path for entry in entries if entry.is_file(follow_symlinks=False) and _head(entry.path)]
    return sorted(found)


class _Below(NamedTuple):
    """What a header names: the resolved path, and whether it says itself that nothing follows."""

    path: str
    ends_there: bool


def _below(path: str) -> list[_Below]:
    try:
        name, kind = named_backing(_head(path))
    except FormatError:
        return []
    found = []
    for each in [] if name is None else _plain_names(name):
        with contextlib.suppress(ValueError):  # no file can have that name
            # The content of a raw image is its VM's, which may look like a header.
            found.append(_Below(os.path.realpath(os.path.join(os.path.dirname(path), each)), kind == "raw"))
    return found


def _plain_names(name: str) -> list[str]:
    """A backing name without QEMU's protocol for plain files; all file names where it is a ``json:`` one."""
    if not name.startswith("json:"):
        return [name.removeprefix("file:")]
    with contextlib.suppress(ValueError, RecursionError):
        return list(_file_names(json.loads(name.removeprefix("json:"))))
    return []


def _file_names(value: object) -> Iterator[str]:
    """The texts at ``filename`` in the options of a block device, nested or written with dots."""
    if isinstance(value, list):
        value = {str(at): inner for at, inner in enumerate(value)}
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str) and key.rpartition(".")[2] == "filename":
                yield inner.removeprefix("file:")
            yield from _file_names(inner)


def _head(path: str) -> bytes:
    """The first cluster of a regular file that may be a qcow2 image; else nothing."""
    with contextlib.suppress(OSError, ValueError):
        # Looked at before it is opened, because opening some devices does something.
        if stat.S_ISREG(os.lstat(path).st_mode):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                head = os.pread(fd, 512, 0) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
                size = claimed_cluster_size(head) if head.startswith(MAGIC) else 0
                return os.pread(fd, min(size, _LONGEST_HEADER), 0) if size else b""
            finally:
                os.close(fd)
    return b""
