"""Images of VM managers that have databases of their own: oVirt and OpenStack Nova; pure.

Such a manager would not know of an overlay: it could start the VM with the former format, or remove the template.

Sources: vdsm, lib/vdsm/storage/constants.py (``/rhev/data-center``) and fileVolume.py (``UUID.meta``); Nova,
nova/virt/libvirt/imagebackend.py (``disk.info``) and imagecache.py (which removes unused files from ``_base``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_OVIRT = re.compile(rf"/rhev/data-center/.*|.*/{_UUID}/images/{_UUID}/{_UUID}")
_NOVA_CACHE = re.compile(r".*/instances/_base/.*|.*/_base/[0-9a-f]{40}(?:_[0-9]+)?")
_NOVA_DISK = re.compile(rf".*/instances/{_UUID}/[^/]+")

_CONVERT_A_COPY = "copy the disk to a folder that only you manage, and convert the copy"
_CHOOSE_ANOTHER_PATH = "choose another path for the overlay (`overlay: {path: ...}`)"


def why_managed(guest: Iterable[str], template: Iterable[str], overlay: str = "") -> str:
    """Return why a guest must not be converted; empty if none of the paths is a manager's.

    All paths are absolute. ``guest``: those of the image and of a link to it; ``template``: those of the
    template's chain.
    """
    by_guest = (_why_guest(f"{path} is", path, _CONVERT_A_COPY) for path in guest)
    return (
        next(filter(None, by_guest), "")
        or _why_guest(f"the overlay {overlay} would be", overlay, _CHOOSE_ANOTHER_PATH)
        or next(filter(None, map(_why_template, template)), "")
    )


def _why_guest(subject: str, path: str, remedy: str) -> str:
    if _OVIRT.fullmatch(path):
        return (
            f"{subject} in a storage domain of oVirt, whose database records the format, size and chain of each"
            f" disk; oVirt would not know of the overlay, so {remedy}"
        )
    if _NOVA_CACHE.fullmatch(path) or _NOVA_DISK.fullmatch(path):
        return (
            f"{subject} in a folder of OpenStack Nova, which records the format of each disk and the image below"
            " it; Nova would not know of the overlay, and could start the VM as if the overlay were raw, so"
            f" {remedy}"
        )
    return ""


def _why_template(path: str) -> str:
    if _OVIRT.fullmatch(path):
        return (
            f"the template's file {path} is in a storage domain of oVirt, which would not know that overlays"
            " depend on it, and could remove it, so use a copy of the template in another folder"
        )
    if _NOVA_CACHE.fullmatch(path) or _NOVA_DISK.fullmatch(path):
        return (
            f"the template's file {path} is in a folder of OpenStack Nova, which deletes images that none of its"
            " own instances uses, and would not count the overlays, so use a copy of the template in another"
            " folder"
        )
    return ""
