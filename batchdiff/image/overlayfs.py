"""Where files of an overlayfs really are: only what is in its upper layer takes space that deleting gives back.

::

    /merged     a.img   b.img   c.img          what everybody sees
    upper       a.img           c.img          deleting a.img frees it; changing c.img's mode changes this one
    lower               b.img   c.img          deleting b.img frees nothing; changing its mode copies it up

In a container the upper layer is often out of sight.

Source: Linux ``Documentation/filesystems/overlayfs.rst``.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from batchdiff.image.exactness import Exactness
from batchdiff.image.mounts import filesystem_of, mount_under

OVERLAYFS = "overlay"


class CopyUp(NamedTuple):
    """What changing a file's mode takes on disk, in bytes; ``note``: why that is not exact."""

    size: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""


NOTHING = CopyUp(0)


def upper_place(fd: int, path: str) -> str | None:
    """Return where an open file or folder of an overlayfs is in the upper layer, if it is there at all.

    None if that layer cannot be seen from here.
    """
    mount = mount_under(fd)
    upper = None if mount is None else mount.option("upperdir")
    if mount is None or not upper or not os.path.isabs(upper) or not _are_one(upper, mount.point):
        return None
    inside = os.path.relpath(os.path.realpath(path), mount.point)
    return os.path.normpath(os.path.join(upper, mount.root.lstrip("/"), inside))


def copy_up(fd: int, path: str) -> CopyUp:
    """Return what changing an open file's mode takes: a file in a lower layer is copied for that, with its data.

    Nothing on other filesystems.
    """
    if filesystem_of(fd) != OVERLAYFS:
        return NOTHING
    upper = upper_place(fd, path)
    if upper is None:
        why = f"{path} may be in a lower layer of its overlayfs, where taking its write permission copies it"
        return CopyUp(0, Exactness.AT_LEAST, why)
    return CopyUp(0 if os.path.lexists(upper) else os.fstat(fd).st_blocks * 512)


def _are_one(upper: str, point: str) -> bool:
    """Return whether the upper layer may be that: another namespace may have something else at its path.

    An overlayfs answers with the numbers of the filesystem that its upper layer is on.
    """
    try:
        ours, theirs = os.statvfs(upper), os.statvfs(point)
    except OSError:
        return False
    return (ours.f_bsize, ours.f_blocks, ours.f_files) == (theirs.f_bsize, theirs.f_blocks, theirs.f_files)
