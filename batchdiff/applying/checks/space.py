"""Make sure that there is enough space before overlays or rebuilt images are written."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from batchdiff.choices import Retire
from batchdiff.errors import GuestError, SpaceError
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.storage.allocation_units import volume_of
from batchdiff.image.storage.copy_up import protecting
from batchdiff.image.storage.shared_blocks import shared_extents
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.btrfs import is_btrfs
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed, is_root_of_the_host
from batchdiff.plan.overlay_options import DEFAULT_CLUSTER_SIZE
from batchdiff.plan.plan import GuestToConvert, Savings
from batchdiff.plan.totals import peak_extra_bytes
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB, format_size

_METADATA = 1024 * KIB
"""Bytes for the header, the first tables, and rounding up."""

_STRETCH = 64 * MIB
"""Bytes mapped at a time."""

_CLUSTERS = {
    ImageFormat.QED: 64 * KIB,
    ImageFormat.VMDK: 64 * KIB,
    ImageFormat.VDI: MIB,
    ImageFormat.VPC: 2 * MIB,
    ImageFormat.VHDX: MIB,
    ImageFormat.PARALLELS: MIB,
}
"""The maximum bytes on disk for a byte that QEMU writes.

In a VHD, that is a whole block, because XFS may fill the holes in a block.
"""

_LUKS_HEADER = 2 * MIB
"""An upper bound for QEMU's header: eight key slots, a key of 64 bytes."""

_FICLONERANGE, _TRIAL = 0x4020940D, 64 * KIB
"""ioctl_ficlonerange(2), and a length that is a whole number of blocks: no block is larger than 64 KiB."""


@frozen
class Room:
    """The number of guests for which there is space at once.

    ``scarce_in``: a folder whose filesystem limits this number; empty if none does.
    """

    jobs: int
    scarce_in: str = ""


def check_space(
    guests: Iterable[GuestToConvert],
    retire: Retire,
    protected: Image | None = None,
    *,
    jobs: int = 1,
    unfinished: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Room:
    """Return how many guests, at most ``jobs``, have space for their overlays at once.

    ``protected``: a template that will be write-protected; on some filesystems, this takes space for a copy.
    ``unfinished``: by guest, the files of an interrupted apply, whose space can be reused.

    :raises GuestError: there may not be enough space even for one guest at a time, or a filesystem cannot be
        queried.
    """
    room = Room(jobs)
    by_device: dict[int, list[GuestToConvert]] = {}
    for guest in guests:
        device = _device(os.path.dirname(guest.overlay_path))
        if device is not None:  # otherwise, this guest alone will fail
            by_device.setdefault(device, []).append(guest)
    for device, chosen in by_device.items():
        folder = os.path.dirname(chosen[0].overlay_path)
        savings = [_here(guest, device, unfinished.get(guest.name, ())) for guest in chosen]
        free = free_bytes(folder)
        copied = 0
        if protected is not None and _device(os.path.dirname(protected.path)) == device:
            copied = protecting(protected).size
        # With fewer guests in progress, fewer overlays exist beside originals that are yet to be deleted.
        while (needed := peak_extra_bytes(savings, retire, at_once=room.jobs) + copied) > free:
            fewer = min(room.jobs, len(savings)) - 1
            if not fewer:
                several = sum(map(len, by_device.values())) > 1
                raise GuestError(
                    f"there is not enough space on the filesystem of {folder}",
                    why=f"up to {format_size(needed)} is needed at any one time, but only {format_size(free)} is"
                    " free",
                    remedy=f"Make room first{', or choose fewer guests with `--guest`' if several else ''}.",
                )
            room = Room(fewer, folder)
    return room


def free_bytes(folder: str) -> int:
    """Return the bytes available to this process on a folder's filesystem.

    :raises GuestError: the filesystem cannot be queried.
    """
    try:
        status = os.statvfs(folder)
        # Root may also use the blocks reserved for root.
        kept_from_root = _kept_by_ext4(folder) if is_root_of_the_host() else None
    except OSError as error:
        fault = explain(error, Deed.READ, folder)
        raise GuestError(
            f"cannot determine the free space of {folder}", why=fault.why, remedy=fault.remedy
        ) from error
    free, available = status.f_bfree * status.f_frsize, status.f_bavail * status.f_frsize
    return available if kept_from_root is None else max(available, free - kept_from_root)


def _kept_by_ext4(folder: str) -> int:
    """Return the bytes that ext4 holds back even from root; 0 on other filesystems, or if unknown.

    Source: Linux ``Documentation/admin-guide/ext4.rst`` (reserved_clusters).
    """
    device = os.stat(folder).st_dev
    link = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    name = os.path.basename(os.path.realpath(link))
    try:
        with open(f"/sys/fs/ext4/{name}/reserved_clusters", encoding="ascii") as file:
            clusters = int(file.read())
    except (OSError, ValueError):
        return 0
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return clusters * volume_of(folder, fd).unit
    finally:
        os.close(fd)


def check_space_for_image(image: Image, folder: str, guest: str, new: ImageSource) -> None:
    """Make sure that a folder has enough space for a standalone copy of an image.

    :raises SpaceError: there is not enough.
    :raises GuestError: the folder cannot be examined.
    :raises ImageError: the image cannot be read.
    """
    needed, free = standalone_bytes(image, folder, new), free_bytes(folder)
    if needed > free:
        raise SpaceError(
            f"there is not enough space on the filesystem of {folder} to rebuild {guest}",
            why=f"up to {format_size(needed)} is needed, but only {format_size(free)} is free",
            remedy="Make room, then run the same command again; with `--guest`, it restores only the guests"
            " that you name.",
        )


def standalone_bytes(image: Image, folder: str, new: ImageSource) -> int:
    """Return the maximum bytes that a standalone copy of an image takes on disk in a folder.

    Shared blocks take no space. QEMU writes images that are encrypted, or neither raw nor qcow2. It shares no
    blocks and allocates whole clusters; into a LUKS image, it writes even zeros.

    :raises GuestError: the folder cannot be examined.
    :raises ImageError: the image cannot be read.
    """
    if new.format is ImageFormat.LUKS:
        return image.virtual_size + _LUKS_HEADER + _METADATA
    encrypted = new.secret_file is not None
    by_qemu = DEFAULT_CLUSTER_SIZE if encrypted else _CLUSTERS.get(new.format)
    unit = max(_allocation_unit(folder, image), by_qemu or 0)
    can_share = [by_qemu is None and _can_share(layer.fd, folder) for layer in image.layers]
    needed, at = _METADATA * (2 if by_qemu else 1) + _LUKS_HEADER * encrypted, image.next_data(0)
    while at is not None:
        end = min(at + _STRETCH, image.virtual_size)
        copied = [segment for segment in image.segments(at, end) if segment.origin is not Origin.ZERO]
        sharing = [each for each in copied if each.origin is Origin.FILE and can_share[each.layer]]
        needed += max(_taken(copied, unit) - _shared(image, sharing), 0)
        at = image.next_data(end)
    # For each cluster, qcow2 has an 8-byte table entry and a 2-byte refcount.
    return needed + image.virtual_size // DEFAULT_CLUSTER_SIZE * 10


def _allocation_unit(folder: str, image: Image) -> int:
    try:
        return volume_of(folder, image.layers[0].fd).unit
    except OSError as error:
        fault = explain(error, Deed.READ, folder)
        raise GuestError(f"cannot examine {folder}", why=fault.why, remedy=fault.remedy) from error


def _taken(segments: list[Segment], unit: int) -> int:
    """Return the total length of the units that ascending segments touch."""
    units, counted = 0, -1
    for each in segments:
        last = (each.end - 1) // unit
        units += last - max(each.start // unit, counted + 1) + 1
        counted = last
    return units * unit


def _shared(image: Image, segments: list[Segment]) -> int:
    """Count the bytes that will be shared: on btrfs, which frees only whole extents, those shared already."""
    whole = [each for each in segments if is_btrfs(image.layers[each.layer].fd)]
    kept = sum(place.end - place.start for place in shared_extents(image, whole))
    return _length(segments) - _length(whole) + kept


def _length(segments: list[Segment]) -> int:
    return sum(segment.end - segment.start for segment in segments)


def _can_share(fd: int, folder: str) -> bool:
    try:
        trial = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.ioctl(trial, _FICLONERANGE, struct.pack("<qQQQ", fd, 0, _TRIAL, 0))
    except OSError:
        return False
    finally:
        os.close(trial)
    return True


def _here(guest: GuestToConvert, device: int, unfinished: tuple[str, ...]) -> Savings:
    savings = guest.diff.savings
    if guest.is_on_device or _device(guest.source.path) != device:
        savings = dataclasses.replace(savings, reclaimable_bytes=0)
    if unfinished:
        left = savings.overlay_disk_bytes - sum(_allocated(path, device) for path in unfinished)
        savings = dataclasses.replace(savings, overlay_disk_bytes=max(left, 0))
    return savings


def _allocated(path: str, device: int) -> int:
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_blocks * 512 if found.st_dev == device else 0


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
