"""The space that a file takes on its disk, and the space that deleting it would free.

What deleting a regular file frees, if it has no other hard link:

===========  ===================================================================================================
ext, XFS     its blocks, less those that FIEMAP reports as shared
btrfs        the extents that the tree lists for it, each counted once and in full, less those with shared parts
tmpfs        its pages
overlayfs    what deleting its file in the upper layer frees there; nothing if there is none
===========  ===================================================================================================
"""

from __future__ import annotations

import bisect
import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace

from batchdiff.files.hard_links import other_names
from batchdiff.frozen import frozen
from batchdiff.image.storage.allocation_units import MEASURED, why_not_measured
from batchdiff.image.storage.block_ranges import NO_BLOCKS, Blocks, blocks_of
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.image.storage.overlayfs import OVERLAYFS, upper_place
from batchdiff.linux.btrfs import StoredExtent, is_btrfs, stored_extents
from batchdiff.linux.fiemap import NO_EXTENTS, ExtentFlag, ExtentTable, extent_table, failed_map, physical_extents
from batchdiff.linux.mounts import filesystem_of
from batchdiff.units import align_up

_LISTED_BYTES = 41
"""The maximum number of bytes needed to list an extent: 12 on ext4 and 16 on XFS, doubled because blocks may be
half empty, and some for headers."""

_OF_OTHERS = (
    "blocks shared with files other than the template are freed too, once the last of those files is deleted"
)

_ALL_SHARED = "it shares all its blocks with other files"
_PERHAPS_GUESTS = (
    "; if those are guests too, converting all of them would free the blocks, but each guest is judged on its"
    " own, because planning for several together is not supported yet"
)

_OF_DEVICES = (
    "a block device's space returns to its pool, which df does not show; a thin device returns only the space that"
    " it has allocated"
)


@frozen
class DiskUse:
    """The bytes that files take, and those that deleting them would free.

    ``exactness`` is that of ``reclaimable``. ``note``: why that figure, or part of it, is not exact or is 0; may
    be empty. ``frees_nothing``: whether deletion is known to free nothing, at least while other files have the
    same blocks.
    """

    allocated: int
    reclaimable: int
    exactness: Exactness = Exactness.EXACT
    note: str = ""
    frees_nothing: bool = False


def allocated_bytes(fd: int, path: str) -> int:
    """Return the bytes that an open file takes on its disk; for a block device, its size.

    On btrfs, this is exact only if the process may search the tree.

    :raises ImageError: the filesystem reports an error.
    """
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    stored = _stored(fd, path) if is_btrfs(fd) else None
    return info.st_blocks * 512 if stored is None else _disk_bytes(stored)


def disk_use_of(
    files: Iterable[tuple[int, str]], *, kept: Mapping[int, Blocks], known: ExtentTable | None = None
) -> DiskUse:
    """Return the total disk use of an image's files, given as pairs (descriptor, path).

    ``kept``: the template's blocks, by device number. ``known``: see :func:`disk_use`; only for an image
    of one file.

    :raises ImageError: the filesystem reports an error.
    """
    uses = [disk_use(fd, path, kept=kept.get(os.fstat(fd).st_dev, NO_BLOCKS), known=known) for fd, path in files]
    if len(uses) == 1:
        return uses[0]
    return DiskUse(
        sum(use.allocated for use in uses),
        sum(use.reclaimable for use in uses),
        of_sum(use.exactness for use in uses),
        next((use.note for use in uses if use.note), ""),
        all(use.frees_nothing for use in uses),
    )


def disk_use(fd: int, path: str, *, kept: Blocks = NO_BLOCKS, known: ExtentTable | None = None) -> DiskUse:
    """Return the bytes that an open file takes, and those that deleting it would free.

    ``kept``: the template's blocks, which stay in use; files that share other blocks may be deleted later.
    ``known``: at least the file's shared extents, if found before.

    :raises ImageError: the filesystem reports an error.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        size = allocated_bytes(fd, path)
        return DiskUse(size, size, Exactness.AT_MOST, _OF_DEVICES)
    if names := other_names(fd, path):
        return DiskUse(allocated_bytes(fd, path), 0, note=names, frees_nothing=True)
    filesystem = filesystem_of(fd)
    if filesystem == OVERLAYFS:
        return _in_layers(fd, path, kept)
    shared = _shared(fd, path) if known is None else known.having(ExtentFlag.SHARED)
    if is_btrfs(fd):
        return _on_btrfs(fd, path, shared, kept)
    found = _by_blocks(fd, shared, kept)
    if filesystem in MEASURED:
        return found
    return replace(found, exactness=Exactness.UNKNOWN, note=why_not_measured(filesystem))


def list_bytes(fd: int, path: str) -> int:
    """Return a generous estimate of the bytes that list an open file's extents; 0 if unknown.

    :raises ImageError: the filesystem reports an error.
    """
    table = extent_table(fd, path, having=0)
    extents = 0 if table is None else len(table.length)
    return align_up(extents * _LISTED_BYTES, os.fstat(fd).st_blksize)


def _in_layers(fd: int, path: str, kept: Blocks) -> DiskUse:
    upper = upper_place(fd, path)
    if upper is None:
        found = _by_blocks(fd, _shared(fd, path), kept)
        why = "it may be in a lower layer of overlayfs (not visible from here), where deleting it frees nothing"
        return _at_most(found, why)
    try:
        real = os.open(upper, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return DiskUse(
            allocated_bytes(fd, path), 0, note="it is in a lower layer of its overlayfs", frees_nothing=True
        )
    except OSError as error:
        found = _by_blocks(fd, _shared(fd, path), kept)
        return _at_most(found, f"{upper} cannot be opened ({error.strerror})")
    try:
        return disk_use(real, upper, kept=kept)
    finally:
        os.close(real)


def _at_most(found: DiskUse, why: str) -> DiskUse:
    exactness = of_sum([found.exactness, Exactness.AT_MOST])
    return replace(found, exactness=exactness, note=f"{found.note}; {why}" if found.note else why)


def _by_blocks(fd: int, shared: ExtentTable, kept: Blocks) -> DiskUse:
    # Listing the extents has flushed the file to disk. Before that, st_blocks may include mere reservations.
    allocated = os.fstat(fd).st_blocks * 512
    return _less(allocated, int(shared.length.sum()), shared, kept)


def _on_btrfs(fd: int, path: str, shared: ExtentTable, kept: Blocks) -> DiskUse:
    stored = _stored(fd, path)
    if stored is None:
        return _without_tree(fd, path, shared)
    others = _in_any(stored, shared)
    return _less(_disk_bytes(stored), _disk_bytes(others), shared, kept)


def _without_tree(fd: int, path: str, shared: ExtentTable) -> DiskUse:
    allocated = os.fstat(fd).st_blocks * 512
    free = max(allocated - int(shared.length.sum()), 0)
    packed = any(True for _ in physical_extents(fd, path, having=ExtentFlag.ENCODED) or ())
    if packed:
        why = "btrfs has compressed it, and only root (CAP_SYS_ADMIN) can see by how much"
        return DiskUse(allocated, free, Exactness.UNKNOWN, why)
    why = (
        "btrfs can keep a file's overwritten data until the file is deleted, and only root (CAP_SYS_ADMIN) can see"
        " how much"
    )
    return DiskUse(allocated, free, Exactness.AT_LEAST, why)


def _less(allocated: int, shared_bytes: int, shared: ExtentTable, kept: Blocks) -> DiskUse:
    free = max(allocated - shared_bytes, 0)
    nothing = len(shared.length) > 0 and not free
    if blocks_of(shared).are_within(kept):
        return DiskUse(allocated, free, note=_ALL_SHARED if nothing else "", frees_nothing=nothing)
    note = f"{_ALL_SHARED}{_PERHAPS_GUESTS}" if nothing else _OF_OTHERS
    return DiskUse(allocated, free, Exactness.AT_LEAST, note, frees_nothing=nothing)


def _shared(fd: int, path: str) -> ExtentTable:
    return extent_table(fd, path, having=ExtentFlag.SHARED) or NO_EXTENTS


def _stored(fd: int, path: str) -> list[StoredExtent] | None:
    try:
        return list(stored_extents(fd, path))
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES}:
            return None
        raise failed_map(path, error) from error


def _disk_bytes(extents: list[StoredExtent]) -> int:
    return sum({extent.physical: extent.disk_bytes for extent in extents}.values())


def _in_any(stored: list[StoredExtent], shared: ExtentTable) -> list[StoredExtent]:
    """Return all parts of an extent if one of them begins in a shared range; both lists are in file order."""
    starts, ends = shared.logical.tolist(), (shared.logical + shared.length).tolist()
    found = set()
    for extent in stored:
        number = bisect.bisect_right(starts, extent.logical) - 1
        if number >= 0 and extent.logical < ends[number]:
            found.add(extent.physical)
    return [extent for extent in stored if extent.physical in found]
