"""The keys of a manifest's ``overlay`` that place an overlay in a storage of Proxmox VE; pure.

::

    overlay: {layout: proxmox, vmid: 101, disk: 0}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from batchdiff.managers.proxmox_overlay import ProxmoxDisk

_OVERRULED = {"layout": "path", "path": "layout"}
"""By the key of a default, the guest's key that overrules it, because both determine the overlay's path."""


def applicable_defaults(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults for a guest; with a layout, ``backing_path`` is relative by default."""
    found = {key: value for key, value in shared.items() if _OVERRULED.get(key) not in own}
    return {"backing_path": "relative"} | found if "layout" in {**found, **own} else found


def disk_in(options: Mapping[str, Any]) -> ProxmoxDisk | None:
    """Return the numbers of VM and disk that options give; None without a layout."""
    return ProxmoxDisk(options.get("vmid"), options.get("disk")) if "layout" in options else None


def of_one_disk(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each key that a glob cannot have, and why."""
    for key in ProxmoxDisk._fields:
        if key in options:
            yield key, f"goes with path, not with glob, because each guest is a different disk; leave {key} out"
