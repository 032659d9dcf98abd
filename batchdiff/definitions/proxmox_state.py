"""The state of a Proxmox VE host: running VMs, and warnings.

Source: qemu-server, ``vm_running_locally`` in src/PVE/QemuServer/Helpers.pm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from batchdiff.definitions.guest_disks import GuestDisk
from batchdiff.definitions.proxmox_config import MAIN
from batchdiff.definitions.proxmox_folder import ProxmoxHost
from batchdiff.definitions.proxmox_storage import path_of_volume, place_in

_PID = re.compile(rb"\s*([1-9][0-9]{0,9})\s*")


def process_of(vmid: int, run_folder: str) -> int | None:
    """Return the PID of a VM; None if no process is found on this host."""
    path = os.path.join(run_folder, f"{vmid}.pid")
    try:
        found = _PID.fullmatch(_content(path))
        if found is None:
            return None
        # The PID may have been reused. The command line of a VM's process contains the path of its pid file.
        arguments = _content(f"/proc/{int(found[1])}/cmdline").split(b"\0")
    except OSError:
        return None
    return int(found[1]) if os.fsencode(path) in arguments else None


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 20)


def doubts(template: str, disks: Sequence[GuestDisk], host: ProxmoxHost) -> Iterator[str]:
    """Yield warnings about unread configurations, the template, containers and storages."""
    yield from host.unread.values()
    found = place_in(template, host.storages)
    if found is not None:
        yield from _of_template(os.path.realpath(template), found[1].vmid, host)
    for disk in disks:
        own = place_in(disk.now.path, host.storages)
        if own is not None and own[1].vmid in host.containers:
            yield (
                f"{disk.guest} is a volume of container {own[1].vmid}, and containers cannot use qcow2: leave it"
                " out of the manifest, or restore it if it has been converted"
            )
    images = [disk.planned or disk.now for disk in disks]
    used = {found[0] for image in images if (found := place_in(image.path, host.storages))}
    for each in sorted(used):
        if not each.allows_images:
            yield (
                f"the storage {each.name} does not allow disk images, so Proxmox VE does not list the guests'"
                " images: add `images` to the content types of the storage"
            )


def _of_template(template: str, vmid: int, host: ProxmoxHost) -> Iterator[str]:
    users = [
        (config, drive)
        for config in host.configs
        for drive in config.drives_in(MAIN)
        if path_of_volume(drive.volume, host.storages) == template
    ]
    for config in dict.fromkeys(config for config, drive in users if not drive.is_unused):
        if not config.is_template:
            yield (
                f"VM {config.vmid} ({config.where}) has the template as a disk, but is not itself a template"
                " (it lacks `template: 1`): if it starts, it writes to the template, and every overlay is"
                f" damaged. `qm set {config.vmid} --template 1` prevents that"
            )
    if not users and vmid not in host.taken:
        yield (
            f"no configuration here refers to the template: unless VM {vmid} is on another host of the cluster, a"
            " new VM can be given that number, and with it the template's folder"
        )
