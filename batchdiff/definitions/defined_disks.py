"""The disk images of persistent domains, with the formats that the domains declare."""

from __future__ import annotations

import os

from batchdiff.definitions.domain_state import images_of_active_domains
from batchdiff.definitions.libvirt_domain import Domain, DomainDisk
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.definitions.virsh import Libvirt
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageFormat


@frozen
class DefinedDisk:
    """A disk's image. ``user``: how an active or saved domain uses it; empty if none does."""

    path: str
    format: ImageFormat
    user: str


@frozen
class DefinedDisks:
    """Disks, each path once. ``unusable``: a sentence about each disk that batchdiff cannot use."""

    disks: tuple[DefinedDisk, ...]
    unusable: tuple[str, ...]


def defined_disks(libvirt: Libvirt) -> DefinedDisks:
    """Return the disks of all persistent domains.

    :raises DefinitionError: libvirt's output cannot be parsed.
    :raises ProgramError: libvirt cannot be queried.
    """
    pools = libvirt.pools()
    users = images_of_active_domains(libvirt)
    found: dict[str, DefinedDisk] = {}
    unusable = []
    for domain in libvirt.domains():
        for disk in domain.disks:
            path, form = _path(disk, pools), _format(disk)
            if not path or form is None:
                unusable.append(_why_unusable(domain, disk, path))
                continue
            found.setdefault(path, DefinedDisk(path, form, users.get(os.path.realpath(path), "")))
    return DefinedDisks(tuple(found.values()), tuple(unusable))


def _path(disk: DomainDisk, pools: list[Pool]) -> str:
    if disk.path:
        return disk.path
    pool = next((pool for pool in pools if disk.pool and pool.name == disk.pool), None)
    return pool.path_of(disk.volume) if pool else ""


def _format(disk: DomainDisk) -> ImageFormat | None:
    try:
        return ImageFormat(disk.format or ImageFormat.RAW)
    except ValueError:
        return None


def _why_unusable(domain: Domain, disk: DomainDisk, path: str) -> str:
    where = f"disk {disk.target} of the domain {domain.name} is left out"
    if path:
        return f"{where}: batchdiff does not support its format, {disk.format}"
    return f"{where}: it is not a file or device on this host"
