"""The units in which a filesystem allocates space to a new file.

============================  ================================================================================
ext2, ext3, XFS, tmpfs        blocks, of the size in statvfs; a tmpfs may take huge pages (``huge=``)
ext4                          the same; with bigalloc, clusters of blocks, inferred from used and free space
btrfs                         blocks, of the size in statvfs; fewer if btrfs compresses the data
overlayfs                     as on the filesystem of its upper layer; unknown if that cannot be seen
others (ZFS, NFS, FUSE, ...)  unknown, because never measured; those of XFS's realtime device are unknown, too
============================  ================================================================================

On btrfs and tmpfs, the units are also unknown if the mount options cannot be seen.

Source: Linux ``Documentation/filesystems/``: ``ext4/bigalloc.rst``, ``tmpfs.rst``; btrfs(5) on compression.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.overlayfs import OVERLAYFS, upper_place
from batchdiff.linux.inode_locks import GET_FLAGS
from batchdiff.linux.mounts import Mount, filesystem_of, mount_under

_USUAL_BLOCK = 4096
"""The block size assumed where statvfs may report the request size (NFS) or any value (FUSE)."""

_LARGEST_UNIT = 1 << 30
"""The largest cluster that the kernel accepts (EXT4_MAX_CLUSTER_LOG_SIZE)."""

_FILES_ASKED = 4096
"""256 would be too few: ext4 lists names in random order, and perhaps only one file shows the unit."""

_HUGE_PAGE, _HUGE_PAGE_SIZE = 2 << 20, "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
"""The size on x86, and the file with this machine's."""

_COMPRESSED, _NOT_COPIED_ON_WRITE = 0x00000004, 0x00800000
_GET_MORE, _REALTIME = 0x801C581F, 0x00000001
MEASURED = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})
"""Filesystems on which plans were checked against df (docs/plan-format.md); ext2 and ext3 resemble ext4."""

_DEPENDS_ON_OPTIONS = frozenset({"btrfs", "tmpfs"})


class Volume(NamedTuple):
    """A filesystem to which a new file will be written.

    ``unit``: the allocation unit in bytes. ``exactness``: that of a size in units; ``note``: why it is not exact.
    ``block``: the bytes of a block, of which a cluster of bigalloc can have several; 4096 if not EXACT.
    """

    filesystem: str
    unit: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""
    block: int = _USUAL_BLOCK


def volume_of(folder: str, guest: int) -> Volume:
    """Return the filesystem that stores a new file in a folder.

    ``guest``: an open file whose flags the new file will have.

    :raises OSError: the folder cannot be examined.
    """
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kind, mount, block = filesystem_of(fd), mount_under(fd), os.fstatvfs(fd).f_frsize
        if kind == OVERLAYFS:
            return _of_upper_layer(fd, folder, guest, block)
    finally:
        os.close(fd)
    if kind not in MEASURED:
        return Volume(kind, _USUAL_BLOCK, Exactness.UNKNOWN, why_not_measured(kind))
    if mount is None and kind in _DEPENDS_ON_OPTIONS:
        why = f"the mount options of this {kind} filesystem cannot be seen from here"
        return Volume(kind, block, Exactness.UNKNOWN, why)
    return _measured(kind, mount, folder, guest, block)


def why_not_measured(filesystem: str) -> str:
    """Return why numbers for a type of filesystem (empty: unknown) are not reliable."""
    return f"batchdiff's numbers have never been checked on {filesystem or 'a filesystem of an unknown type'}"


def _measured(kind: str, mount: Mount | None, folder: str, guest: int, block: int) -> Volume:
    if kind == "ext4":
        return Volume(kind, _cluster(folder, guest, block), block=block)
    if kind == "xfs" and _is_realtime(guest):
        return Volume(kind, block, Exactness.UNKNOWN, why_not_measured("the realtime device of XFS"))
    if kind == "btrfs" and mount is not None and _compresses(mount, guest):
        why = "btrfs compresses the overlay, whose size is not known until it has been written"
        return Volume(kind, block, Exactness.AT_MOST, why)
    if kind == "tmpfs" and mount is not None and mount.option("huge") not in {None, "never"}:
        why = "the tmpfs may use huge pages or small ones for the overlay (huge=)"
        return Volume(kind, _huge_page(), Exactness.AT_MOST, why)
    return Volume(kind, block, block=block)


def _huge_page() -> int:
    try:
        with open(_HUGE_PAGE_SIZE, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _HUGE_PAGE


def _of_upper_layer(fd: int, folder: str, guest: int, block: int) -> Volume:
    upper = upper_place(fd, folder)
    if upper is None:
        why = "the filesystem below overlayfs, on which the overlay will be written, cannot be seen from here"
        return Volume(OVERLAYFS, block, Exactness.UNKNOWN, why)
    while not os.path.isdir(upper):
        upper = os.path.dirname(upper)  # creating a file also creates the folders that the upper layer lacks
    return volume_of(upper, guest)


def _cluster(folder: str, guest: int, block: int) -> int:
    """Infer ext4's allocation unit, which statvfs does not report: all used and free space is in whole units.

    A folder with few files takes one unit; a larger one may take several, but then its files show the unit.
    """
    common, device = 0, os.stat(folder).st_dev
    for info in itertools.chain([os.fstat(guest)], map(os.stat, _upwards(folder)), _files_in(folder)):
        taken = info.st_blocks * 512
        if info.st_dev == device and taken >= block:  # a file that takes less has no blocks
            common = math.gcd(common, taken)
        if common & -common == block:
            return block
    free = os.statvfs(folder)
    common = math.gcd(common, free.f_bfree * free.f_frsize)
    return max(common & -common, block) if 0 < common & -common <= _LARGEST_UNIT else block


def _files_in(folder: str) -> Iterator[os.stat_result]:
    with contextlib.suppress(PermissionError), os.scandir(folder) as files:
        for file in itertools.islice(files, _FILES_ASKED):
            with contextlib.suppress(OSError):  # the file may have been deleted
                yield file.stat(follow_symlinks=False)


def _upwards(folder: str) -> Iterator[str]:
    at = os.path.realpath(folder)
    yield at
    while at != os.path.dirname(at):
        at = os.path.dirname(at)
        yield at


def _compresses(mount: Mount, guest: int) -> bool:
    flags = _flags(guest)
    if flags & _NOT_COPIED_ON_WRITE or mount.option("nodatacow") is not None:
        return False
    chosen = mount.option("compress-force") or mount.option("compress")
    return bool(flags & _COMPRESSED) or chosen not in {None, "no", "none"}


def _is_realtime(fd: int) -> bool:
    try:
        return bool(struct.unpack_from("=I", fcntl.ioctl(fd, _GET_MORE, bytes(28)))[0] & _REALTIME)
    except OSError:
        return False


def _flags(fd: int) -> int:
    try:
        return int(struct.unpack("=I", fcntl.ioctl(fd, GET_FLAGS, bytes(4)))[0])
    except OSError:
        return 0
