"""The storages of Proxmox VE that are folders, and the volumes in them.

::

    dir: local                    in storage.cfg; also nfs, cifs, cephfs, glusterfs and btrfs
            path /var/lib/vz      images are in /var/lib/vz/images, unless content-dirs names another folder
            content images,iso

    local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2  ->  /var/lib/vz/images/101/vm-101-disk-0.qcow2
    tree:101/vm-101-disk-0.raw  ->  /srv/tree/images/101/vm-101-disk-0/disk.raw, if tree is a btrfs storage

Sources: pve-common, ``parse_config`` in src/PVE/SectionConfig.pm; pve-storage, ``parse_config``, ``parse_volname``
and ``filesystem_path`` in src/PVE/Storage/Plugin.pm and BTRFSPlugin.pm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.errors import DefinitionError
from batchdiff.managers.proxmox import BTRFS_FILE, IMAGES, VolumePlace, base_of, place_of, volume_name

_HEADER = re.compile(r"([A-Za-z][\w-]*):\s*(\S+)\s*")
_PROPERTY = re.compile(r"\s+(\S+)(?:\s+(.*\S))?\s*")
_VOLUME = re.compile(r"([A-Za-z][\w.-]*[A-Za-z0-9]):(?:[0-9]+/[^\s/]+/)?([0-9]+)/([^\s/]+)")
_LOCAL = ("local", "/var/lib/vz")
_OWN_FOLDER = f"/{BTRFS_FILE}"
_RAW = ".raw"
_MOUNTED = {"nfs", "cifs", "cephfs", "glusterfs"}
"""The kinds of storage that are mounted at /mnt/pve/NAME unless they have a path."""


class Storage(NamedTuple):
    """A storage that is a folder. ``images``: the folder of its images."""

    name: str
    kind: str
    images: str
    allows_images: bool

    def path_of(self, vmid: str, name: str) -> str:
        """Return the path of a volume."""
        if self.kind == "btrfs" and name.endswith(_RAW):
            name = name.removesuffix(_RAW) + _OWN_FOLDER
        return os.path.join(self.images, vmid, name)

    def place_of(self, path: str) -> VolumePlace | None:
        """Return the place of the volume at an absolute path; None if no volume of this storage can be there."""
        if self.kind == "btrfs" and path.endswith(_RAW):
            if not path.endswith(_OWN_FOLDER):
                return None
            path = path.removesuffix(_OWN_FOLDER) + _RAW
        place = place_of(path)
        is_here = place is not None and os.path.realpath(place.images) == os.path.realpath(self.images)
        return place if is_here else None


def parse_storages(document: bytes, where: str) -> list[Storage]:
    """Return the storages that are folders, and ``local`` even if it is not listed.

    :raises DefinitionError: a line is not valid.
    """
    sections: list[tuple[str, str, dict[str, str]]] = []
    for line in document.decode("utf-8", "surrogateescape").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := _HEADER.fullmatch(line):
            sections.append((found[1].lower(), found[2], {}))
        elif sections and (found := _PROPERTY.fullmatch(line)):
            sections[-1][2][found[1]] = found[2] or ""
        else:
            raise DefinitionError(
                f"cannot use {where}", why=f"{line.strip()[:60]!r} is not a valid line of storage.cfg"
            )
    if not any(name == _LOCAL[0] for _, name, _ in sections):
        sections.append(("dir", _LOCAL[0], {}))  # Proxmox VE adds it as well
    storages = (_storage(kind, name, given) for kind, name, given in sections)
    return [storage for storage in storages if storage is not None]


def _storage(kind: str, name: str, given: dict[str, str]) -> Storage | None:
    usual = _LOCAL[1] if name == _LOCAL[0] else f"/mnt/pve/{name}" if kind in _MOUNTED else ""
    path = given.get("path") or usual
    if not path:
        return None
    folders = dict(
        each.split("=", 1) for each in re.split(r"[,;\s]+", given.get("content-dirs", "")) if "=" in each
    )
    images = os.path.join(path, folders.get(IMAGES, IMAGES))
    return Storage(name, kind, images, IMAGES in re.split(r"[,;\s]+", given.get("content", IMAGES)))


def path_of_volume(volume: str, storages: Iterable[Storage]) -> str:
    """Return the resolved path of an image, given its volume or path; empty if the volume's path is not known."""
    path = _path_of(volume, storages)
    return os.path.realpath(path) if path else ""


def _path_of(volume: str, storages: Iterable[Storage]) -> str:
    if volume.startswith("/"):
        return volume
    found = _VOLUME.fullmatch(volume)
    storage = next((each for each in storages if found and each.name == found[1]), None)
    return storage.path_of(found[2], found[3]) if storage and found else ""


def place_in(path: str, storages: Iterable[Storage], *, now: str = "") -> tuple[Storage, VolumePlace] | None:
    """Return the storage that an image is in, if any, and the image's place there.

    ``now``: the volume that the image replaces; its storage is preferred.
    """
    found = [
        (storage, place)
        for name in (path, os.path.realpath(path))
        for storage in storages
        if (place := storage.place_of(name)) is not None
    ]
    return min(found, key=lambda each: not now.startswith(f"{each[0].name}:"), default=None)


def volume_for(image: VmImage, storages: Iterable[Storage], *, now: str = "") -> str:
    """Return an image's name for a drive: its volume or, if that cannot be used, its path.

    Proxmox VE takes a volume's format from the end of its name. ``now``: as for :func:`place_in`.
    """
    found = place_in(image.path, storages, now=now)
    if found is None:
        return image.path
    storage, place = found
    if not place.name.endswith(f".{image.format}"):
        return storage.path_of(str(place.vmid), place.name)
    return f"{storage.name}:{volume_name(place, base_of(place, image.backing_name))}"


def is_volume_of(volume: str, image: VmImage, storages: Iterable[Storage]) -> bool:
    """Return whether a volume or absolute path is right for an image.

    The volume of a linked clone must name the base.
    """
    path = _path_of(volume, storages)
    if not path or os.path.realpath(path) != os.path.realpath(image.path):
        return False
    return volume.startswith("/") or volume_for(image._replace(path=path), storages, now=volume) == volume
