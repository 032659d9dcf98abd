"""The place of a guest's overlay in a storage of Proxmox VE, as a linked clone of the template; pure.

::

    IMAGES/101/vm-101-disk-0.raw            a guest
    IMAGES/101/vm-101-disk-0.qcow2          a guest, whose overlay takes its path
    IMAGES/101/vm-101-disk-0/disk.raw       a guest on a btrfs storage
    /imports/web01.img  (vmid 101, disk 0)  a guest from elsewhere

    IMAGES/101/vm-101-disk-0.qcow2          the overlay of each of them

IMAGES is the images folder of the template's storage: Proxmox VE looks for linked clones of a base in the base's
storage.

Source: pve-storage, ``clone_image`` and ``list_images`` in src/PVE/Storage/Plugin.pm, and BTRFSPlugin.pm.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from batchdiff.managers.proxmox import BTRFS_FILE, IMAGES, VolumePlace, disk_of, place_of

_VMID = "[1-9][0-9]{2,8}"
_ELSEWHERE = re.compile(rf"(.*/{IMAGES})/{_VMID}/")


class ProxmoxDisk(NamedTuple):
    """The numbers of VM and disk in a manifest; None for one that the guest's path must show."""

    vmid: int | None = None
    disk: int | None = None


class PlacementError(ValueError):
    """The error for a guest whose overlay has no place.

    ``key``: a key of ``overlay``, or "path" for the guest's path; ``write``: what to write in the manifest.
    """

    def __init__(self, key: str, why: str, write: str) -> None:
        super().__init__(f"{why}; write {write}")
        self.key, self.why, self.write = key, why, write


def template_problem(template: str) -> str:
    """Return why a template's path rules out linked clones, and what to do; empty if it allows them."""
    place = place_of(template)
    numbers = disk_of(place.name) if place else None
    if place is None or numbers is None or numbers[0] != place.vmid:
        return (
            "`layout: proxmox` needs a template with a path such as .../images/9000/base-9000-disk-0.qcow2 in a"
            f" storage of Proxmox VE, but the template is {template}; make its VM a template there (`qm template"
            " VMID`), and write the path of its disk"
        )
    if not place.is_base:
        return (
            f"Proxmox VE makes linked clones only of images whose names begin with base-; run `qm template"
            f" {place.vmid}`, which renames the template, and write its new path"
        )
    return ""


def overlay_in_storage(template: str, guest: str, chosen: ProxmoxDisk) -> str:
    """Return the path of a guest's overlay. All paths are absolute.

    :raises PlacementError: the guest's path and ``chosen`` do not determine a place for the overlay.
    :raises ValueError: the template is not in a storage.
    """
    base = place_of(template)
    if base is None:
        raise ValueError(f"{template} is not in a storage of Proxmox VE")
    owner, name = _own_place(base, guest)
    named = disk_of(name)
    if owner == base.vmid:
        why = f"it is in the folder of the template's own VM, {owner}"
        raise PlacementError("path", why, "its new path, once you have moved it out of that folder")
    vmid = _vmid(base, guest, chosen, owner, named)
    if vmid == base.vmid:
        raise PlacementError("vmid", f"VM {vmid} is the template's own", "the number of another VM as `vmid`")
    if chosen.disk is not None:
        disk = chosen.disk
    elif named is not None and named[0] == vmid:
        disk = named[1]
    else:
        why = f"its name is not vm-{vmid}-disk-N, which would show the number of the disk"
        raise PlacementError("disk", why, "`disk: N`")
    return VolumePlace(base.images, vmid, f"vm-{vmid}-disk-{disk}.qcow2").path


def _own_place(base: VolumePlace, guest: str) -> tuple[int | None, str]:
    """Return the VM, if any, whose folder in the template's storage contains a guest, and the name to parse."""
    folder, name = posixpath.split(guest)
    if name == BTRFS_FILE and disk_of(posixpath.basename(folder)):
        folder, name = posixpath.split(folder)
    images, number = posixpath.split(folder)
    inside = images == base.images and place_of(f"{folder}/vm.raw") is not None
    return (int(number) if inside else None), name


def _vmid(
    base: VolumePlace, guest: str, chosen: ProxmoxDisk, owner: int | None, named: tuple[int, int] | None
) -> int:
    if owner is not None:
        if chosen.vmid not in {None, owner}:
            why = f"it is in the folder of VM {owner}, so Proxmox VE assigns it to that VM, not to {chosen.vmid}"
            raise PlacementError("vmid", why, f"`vmid: {owner}`")
        if chosen.vmid is None and named is not None and named[0] != owner:
            why = f"it is in the folder of VM {owner}, but its name is that of a disk of VM {named[0]}"
            raise PlacementError("vmid", why, f"`vmid: {owner}` and `disk: N`, or give the file the right name")
        return owner
    below = re.match(rf"({re.escape(base.images)}/{_VMID})/", guest)
    elsewhere = _ELSEWHERE.match(guest)
    if below is not None and None in chosen:
        why = f"it is in a folder below {below[1]}, where Proxmox VE does not look for disks"
        raise PlacementError("vmid", why, "both `vmid` and `disk` to place its overlay")
    if elsewhere is not None and None in chosen:
        why = f"it is in {elsewhere[1]}, not in the template's storage, but its overlay must be in {base.images}"
        raise PlacementError("vmid", why, "both `vmid` and `disk` to put the overlay there")
    vmid = chosen.vmid if chosen.vmid is not None else named[0] if named is not None else None
    if vmid is None:
        raise PlacementError("vmid", "neither its folder nor its name shows the number of its VM", "`vmid: VMID`")
    return vmid
