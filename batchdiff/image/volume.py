"""How a filesystem gives space to a new file: in which units, and whether that can be known ahead.

============================  ================================================================================
ext2, ext3, XFS, tmpfs        blocks, whose size statvfs has; a tmpfs with ``huge=`` may take larger ones
ext4                          the same; with bigalloc clusters of blocks, which show in what folders take
btrfs                         blocks; less where it compresses
overlayfs                     what its upper layer's filesystem does
others (ZFS, NFS, FUSE, ...)  nobody has measured what batchdiff promises there
============================  ================================================================================

Source: Linux ``Documentation/filesystems/``: ``ext4/bigalloc.rst``, ``tmpfs.rst``; btrfs(5) on compression.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from batchdiff.image.exactness import Exactness
from batchdiff.image.mounts import Mount, mount_under
from batchdiff.image.overlayfs import OVERLAYFS, upper_place

_LARGEST_UNIT = 1 << 30
"""mke2fs makes no larger clusters than 512 MiB."""

_GET_FLAGS = 0x80086601
_COMPRESSED, _NOT_COPIED_ON_WRITE = 0x00000004, 0x00800000
MEASURED = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})
"""Filesystems on which the numbers of plans were held against df (docs/plan-format.md)."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A filesystem, as seen by somebody who writes an overlay there.

    ``unit``: bytes in which it gives space. ``exactness`` is that of a size in such units, and ``note`` why it is
    not exact.
    """

    filesystem: str
    unit: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""


def volume_of(folder: str, guest: int) -> Volume:
    """Return the filesystem of a folder, for a file that will have the flags of ``guest``, an open file.

    :raises OSError: there is no such folder.
    """
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount, block = mount_under(fd), os.fstatvfs(fd).f_frsize
        if mount is not None and mount.filesystem == OVERLAYFS:
            return _of_upper_layer(fd, folder, guest, block)
    finally:
        os.close(fd)
    if mount is None or mount.filesystem not in MEASURED:
        filesystem = "" if mount is None else mount.filesystem
        return Volume(filesystem, block, Exactness.UNKNOWN, not_measured(filesystem))
    unit = _cluster(folder, guest, block) if mount.filesystem == "ext4" else block
    return Volume(mount.filesystem, unit, *_predictable(mount, guest))


def not_measured(filesystem: str) -> str:
    """Return why numbers for a filesystem of that type cannot be relied on."""
    return f"what files take on {filesystem or 'a filesystem of unknown type'} was never measured with batchdiff"


def _of_upper_layer(fd: int, folder: str, guest: int, block: int) -> Volume:
    upper = upper_place(fd, folder)
    if upper is None:
        why = "the upper layer of its overlayfs cannot be seen from here"
        return Volume(OVERLAYFS, block, Exactness.UNKNOWN, why)
    while not os.path.isdir(upper):
        upper = os.path.dirname(upper)  # a folder that is only in a lower layer is made once something is written
    return volume_of(upper, guest)


def _cluster(folder: str, guest: int, block: int) -> int:
    """Return the largest unit in which all that is seen of a filesystem may have been given out.

    A folder of one block takes one unit, and the topmost folder has seldom more; no other place shows it.
    """
    device = os.stat(folder).st_dev
    found = [os.stat(each).st_blocks for each in _upwards(folder) if os.stat(each).st_dev == device]
    info = os.fstat(guest)
    if info.st_dev == device:
        found.append(info.st_blocks)
    common = math.gcd(*found) * 512
    return max(common & -common, block) if 0 < common & -common <= _LARGEST_UNIT else block


def _upwards(folder: str) -> Iterator[str]:
    at = os.path.realpath(folder)
    yield at
    while at != os.path.dirname(at):
        at = os.path.dirname(at)
        yield at


def _predictable(mount: Mount, guest: int) -> tuple[Exactness, str]:
    match mount.filesystem:
        case "btrfs" if _compresses(mount, guest):
            return Exactness.AT_MOST, "btrfs compresses the overlay, and how far shows only then"
        case "tmpfs" if mount.option("huge") not in {None, "never"}:
            return Exactness.AT_LEAST, "its tmpfs may take huge pages for the overlay (huge=)"
        case _:
            return Exactness.EXACT, ""


def _compresses(mount: Mount, guest: int) -> bool:
    flags = _flags(guest)
    if flags & _NOT_COPIED_ON_WRITE or mount.option("nodatacow") is not None:
        return False
    chosen = mount.option("compress-force") or mount.option("compress")
    return bool(flags & _COMPRESSED) or chosen not in {None, "no", "none"}


def _flags(fd: int) -> int:
    """Return the inode flags of a file, which apply gives to its overlay (ioctl_iflags(2))."""
    try:
        return int(struct.unpack("=I", fcntl.ioctl(fd, _GET_FLAGS, bytes(4)))[0])
    except OSError:
        return 0
