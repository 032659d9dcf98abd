"""The images in a folder that is a storage of Proxmox VE, and the names by which Proxmox VE knows them; pure.

::

    /var/lib/vz/images/9000/base-9000-disk-0.qcow2    local:9000/base-9000-disk-0.qcow2
    /var/lib/vz/images/101/vm-101-disk-0.qcow2        local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2
    the images folder  VM  name                       the volume; a linked clone's begins with its base

In a storage, Proxmox VE recognises a linked clone by its backing file name, such as
``../9000/base-9000-disk-0.qcow2``. It refuses to remove a base whose linked clones it finds.

Source: pve-storage, src/PVE/Storage/Plugin.pm, ``parse_name_dir``, ``parse_volname`` and ``list_images``;
src/PVE/Storage.pm, ``volume_is_base_and_used``.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

_VMID = re.compile(r"[1-9][0-9]{2,8}")
_FILE = re.compile(r"(?!snap-)[^/\s]+\.(?:raw|qcow2|vmdk)")
_OF_VM = re.compile(r"(?:vm|base)-[0-9]+-")
_DISK = re.compile(r"(?:vm|base)-([0-9]{3,9})-disk-([0-9]{1,4})(?:\.(?:raw|qcow2|vmdk))?")
_BACKING = re.compile(r"\.\./([0-9]+)/([^/]+\.(?:raw|qcow2|vmdk))")

IMAGES = "images"
"""The usual name of the folder of all images; ``content-dirs`` can change it."""

BTRFS_FILE = "disk.raw"
"""The name of each raw image on a btrfs storage, in a folder of its own."""


class VolumePlace(NamedTuple):
    """The place of an image in a storage. ``images``: the folder of all images."""

    images: str
    vmid: int
    name: str

    @property
    def is_base(self) -> bool:
        """True if the image can have linked clones."""
        return self.name.startswith("base-")

    @property
    def path(self) -> str:
        """The path of the image."""
        return f"{self.images}/{self.vmid}/{self.name}"


def place_of(path: str) -> VolumePlace | None:
    """Return an image's place by its absolute path; None if the path is not like ``.../101/NAME.raw``."""
    folder, _, name = path.rpartition("/")
    images, _, number = folder.rpartition("/")
    if not images or not _VMID.fullmatch(number) or not _FILE.fullmatch(name):
        return None
    return VolumePlace(images, int(number), name)


def disk_of(name: str) -> tuple[int, int] | None:
    """Return the numbers of VM and disk in a name like ``vm-101-disk-0.raw``; None for other names."""
    found = _DISK.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def is_of_proxmox(path: str) -> bool:
    """Return whether an absolute path is like ``.../images/101/vm-101-disk-0.raw``."""
    place = place_of(path)
    return place is not None and place.images.endswith(f"/{IMAGES}") and _OF_VM.match(place.name) is not None


def base_of(place: VolumePlace, backing_name: str) -> VolumePlace | None:
    """Return the base of a clone; None if ``backing_name`` is not ../VMID/NAME.FORMAT."""
    found = _BACKING.fullmatch(backing_name)
    return VolumePlace(place.images, int(found[1]), found[2]) if found else None


def volume_name(place: VolumePlace, base: VolumePlace | None = None) -> str:
    """Return a volume's name without its storage. ``base``: the base of a linked clone."""
    before = "" if base is None else f"{base.vmid}/{base.name}/"
    return f"{before}{place.vmid}/{place.name}"


class Unseen(enum.Enum):
    """The reason why Proxmox VE does not see that an overlay depends on its template."""

    TEMPLATE = enum.auto()
    FOLDER = enum.auto()
    """The overlay is not in a VM's folder in the template's storage, or Proxmox VE ignores its name."""
    FORMAT = enum.auto()
    """The overlay's name does not end in .qcow2, so Proxmox VE assumes another format."""
    NAME = enum.auto()


def why_unseen(overlay: str, template: str, backing_name: str) -> Unseen | None:
    """Return why Proxmox VE would not see that an overlay depends on a template. The paths are absolute."""
    base, clone = place_of(template), place_of(overlay)
    if base is None or not base.is_base:
        return Unseen.TEMPLATE
    if clone is None or clone.images != base.images:
        return Unseen.FOLDER
    if not clone.name.endswith(".qcow2"):
        return Unseen.FORMAT
    return None if base_of(clone, backing_name) == base else Unseen.NAME
