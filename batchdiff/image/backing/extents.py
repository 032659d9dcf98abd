"""Find which of some VMDK files are only extents of others: a glob such as ``*.vmdk`` matches them, too."""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchdiff.files.identity import Identity, identity_in
from batchdiff.image.backing.heads import Heads
from batchdiff.units import SECTOR


def extents_among(paths: Iterable[str]) -> frozenset[Identity]:
    """Return the identities of the extents that these images name, unless a file could be an image by itself.

    A file with a descriptor is an image, whatever other images claim. Files that cannot be read name nothing.
    """
    heads, found = Heads(), set()
    for path in paths:
        try:
            names = heads.names(path, os.stat(path))
        except OSError:
            continue
        folder = os.path.dirname(os.path.realpath(path))
        places = [os.path.join(folder, each.name) for each in names if each.ends_there]
        found |= {identity for place in places if (identity := _identity_without_descriptor(place)) is not None}
    return frozenset(found)


def _identity_without_descriptor(path: str) -> Identity | None:
    try:
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
