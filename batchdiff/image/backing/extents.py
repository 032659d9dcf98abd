"""Files that are only extents of VMDK images: a glob such as ``*.vmdk`` matches them, too."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from batchdiff.files.identity import Identity, identity_in, identity_of
from batchdiff.image.backing.heads import Heads
from batchdiff.units import SECTOR


def extents_among(files: Iterable[str], images: Iterable[str]) -> frozenset[Identity]:
    """Return the identities of the files that are only extents of these images.

    Unreadable files and images are skipped. Only those given are opened: an image can name any file, even a device
    whose opening has side effects.
    """
    heads = Heads()
    found: set[Identity] = set()
    by_identity = {identity: path for path in files if (identity := identity_of(path)) is not None}
    for path in images:
        try:
            names = heads.names(path, os.stat(path))
        except OSError:
            continue
        folder = os.path.dirname(os.path.realpath(path))
        places = [os.path.join(folder, each.name) for each in names if each.ends_there]
        named = {identity_of(place) for place in places}
        found |= {identity for identity in named - found if identity and _is_extent(identity, by_identity)}
    return frozenset(found)


def _is_extent(identity: Identity, files: dict[Identity, str]) -> bool:
    path = files.get(identity)
    return path is not None and _identity_without_descriptor(path) == identity


def _identity_without_descriptor(path: str) -> Identity | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        head = os.pread(fd, SECTOR + 1, 0)
    except OSError:
        return None
    finally:
        os.close(fd)
    is_image = head.startswith(b"# Disk DescriptorFile") or (head[:4] == b"KDMV" and head[SECTOR:] != b"\0")
    return None if is_image else identity_in(status)
