"""The layers of overlayfs: deleting a file frees space only if the file is in the upper layer.

::

    /merged     a.img   b.img   c.img          the mounted view
    upper       a.img           c.img          deleting one of these frees space
    lower               b.img   c.img          deleting b.img frees nothing; changing its mode copies it up

In a container the upper layer often cannot be seen.

Source: Linux ``Documentation/filesystems/overlayfs.rst``.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from batchdiff.image.storage.exactness import Exactness
from batchdiff.linux.mounts import filesystem_of, mount_under

OVERLAYFS = "overlay"

_WITHOUT_REFLINKS = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
_METACOPY = "/sys/module/overlay/parameters/metacopy"


class CopyUp(NamedTuple):
    """The disk space in bytes that changing a file's mode takes; ``note``: why that is not exact."""

    size: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""


NOTHING = CopyUp(0)


def upper_place(fd: int, path: str) -> str | None:
    """Return an open file's or folder's path in the upper layer; None if that layer is not found.

    The path is returned even if nothing is there.
    """
    mount = mount_under(fd)
    upper = None if mount is None else mount.option("upperdir")
    if mount is None or not upper or not os.path.isabs(upper) or not _are_one(upper, mount.point):
        return None
    inside = os.path.relpath(os.path.realpath(path), mount.point)
    return os.path.normpath(os.path.join(upper, mount.root.lstrip("/"), inside))


def copy_up(fd: int, path: str) -> CopyUp:
    """Return the space that changing an open file's mode takes: overlayfs then copies a file from a lower layer.

    A copy without the data (``metacopy``) counts as 0.
    """
    if filesystem_of(fd) != OVERLAYFS:
        return NOTHING
    mount = mount_under(fd)
    if mount is not None and mount.option("upperdir") is None:
        return NOTHING  # without an upper layer, overlayfs is read-only
    upper = upper_place(fd, path)
    if upper is None and not _copies_attributes_only(fd):
        why = (
            f"{path} may be in a lower layer of its overlayfs; if so, removing its write permission copies the"
            " file"
        )
        return CopyUp(0, Exactness.AT_LEAST, why)
    if upper is None or os.path.lexists(upper) or _copies_attributes_only(fd):
        return NOTHING
    size = os.fstat(fd).st_blocks * 512
    if _filesystem_at(upper) in _WITHOUT_REFLINKS:
        return CopyUp(size)
    return CopyUp(size, Exactness.AT_MOST, f"{path} is copied to the upper layer, by reflink if possible")


def _filesystem_at(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return filesystem_of(fd)
    finally:
        os.close(fd)


def _copies_attributes_only(fd: int) -> bool:
    mount = mount_under(fd)
    chosen = None if mount is None else mount.option("metacopy")
    if chosen is not None:
        return chosen == "on"
    try:
        with open(_METACOPY, encoding="ascii") as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


def _are_one(upper: str, point: str) -> bool:
    """Return whether ``upper`` is probably the upper layer of the overlayfs mounted at ``point``.

    If the overlayfs was mounted in another namespace, ``upper`` may name another folder here. But statvfs on an
    overlayfs reports the numbers of its upper layer's filesystem.
    """
    try:
        ours, theirs = os.statvfs(upper), os.statvfs(point)
    except OSError:
        return False
    return (ours.f_bsize, ours.f_blocks, ours.f_files) == (theirs.f_bsize, theirs.f_blocks, theirs.f_files)
