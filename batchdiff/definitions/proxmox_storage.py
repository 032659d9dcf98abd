"""The storages of Proxmox VE that are folders, and the volumes in them.

::

    dir: local                    in storage.cfg; also nfs, cifs, cephfs, glusterfs and btrfs
            path /var/lib/vz      images are in /var/lib/vz/images, unless content-dirs names another folder
            content images,iso

    local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2  ->  /var/lib/vz/images/101/vm-101-disk-0.qcow2

Sources: pve-common, ``parse_config`` in src/PVE/SectionConfig.pm; pve-storage, ``parse_config``, ``parse_volname``
and ``filesystem_path`` in src/PVE/Storage/Plugin.pm and BTRFSPlugin.pm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.errors import DefinitionError
from batchdiff.managers.proxmox import IMAGES, base_of, place_of, volume_name

_HEADER = re.compile(r"([A-Za-z][\w-]*):\s*(\S+)\s*")
_PROPERTY = re.compile(r"\s+(\S+)(?:\s+(.*\S))?\s*")
_VOLUME = re.compile(r"([A-Za-z][\w.-]*[A-Za-z0-9]):(?:[0-9]+/[^\s/]+/)?([0-9]+)/([^\s/]+)")
_LOCAL = ("local", "/var/lib/vz")
_MOUNTED = {"nfs", "cifs", "cephfs", "glusterfs"}
"""The types of storages that are mounted at /mnt/pve/NAME unless they have a path."""


class Storage(NamedTuple):
    """A storage that is a folder.

    ``images``: the folder of images; ``allows_images``: whether the content types include images.
    """

    name: str
    kind: str
    images: str
    allows_images: bool

    def path_of(self, vmid: str, name: str) -> str:
        """Return the path of a volume; on btrfs, a raw one has a folder of its own."""
        if self.kind == "btrfs" and name.endswith(".raw"):
            name = f"{name.removesuffix('.raw')}/disk.raw"
        return os.path.join(self.images, vmid, name)


def parse_storages(document: bytes, where: str) -> list[Storage]:
    """Return the storages in ``storage.cfg`` that are folders, and ``local`` even if it is not listed.

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
    """Return the resolved path of a volume or an absolute path; empty if the volume is in none of the storages."""
    if volume.startswith("/"):
        return os.path.realpath(volume)
    found = _VOLUME.fullmatch(volume)
    storage = next((each for each in storages if found and each.name == found[1]), None)
    return os.path.realpath(storage.path_of(found[2], found[3])) if storage and found else ""


def storage_of(path: str, storages: Sequence[Storage], *, now: str = "") -> Storage | None:
    """Return the storage in whose folder of images a path is VMID/NAME; None if there is none.

    ``now``: the volume that the image replaces; its storage is preferred if several have the same folder.
    """
    place = place_of(path)
    if place is None:
        return None
    folder = os.path.realpath(place.images)
    found = [storage for storage in storages if os.path.realpath(storage.images) == folder]
    return min(found, key=lambda storage: not now.startswith(f"{storage.name}:"), default=None)


def volume_for(image: VmImage, storages: Sequence[Storage], *, now: str = "") -> str:
    """Return the name of an image for a drive: its volume, or its path if no storage is found for it.

    ``now``: as for :func:`storage_of`.
    """
    place, storage = place_of(image.path), storage_of(image.path, storages, now=now)
    if place is None or storage is None:
        return image.path
    return f"{storage.name}:{volume_name(place, base_of(place, image.backing_name))}"
