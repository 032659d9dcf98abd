"""Read the configuration of a Proxmox VE host from its folders, or from copies of them.

::

    /etc/pve/storage.cfg
    /etc/pve/qemu-server/101.conf     in the folder that the operator names; 101 is the number of the VM
    /etc/pve/lxc/105.conf             a container; no VM has its number
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from batchdiff.definitions.proxmox_config import VmConfig, parse_config
from batchdiff.definitions.proxmox_storage import Storage, parse_storages
from batchdiff.errors import BatchdiffError, UsageError
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed

_CONFIG = re.compile(r"[1-9][0-9]{2,8}\.conf")
_STORAGES = "storage.cfg"


class ProxmoxHost(NamedTuple):
    """A host's VMs in numerical order, storages that are folders, and containers as far as known.

    ``unread``: a warning for each VM whose configuration cannot be used.
    """

    configs: list[VmConfig]
    storages: list[Storage]
    containers: frozenset[int]
    unread: Mapping[int, str] = MappingProxyType({})

    @property
    def taken(self) -> frozenset[int]:
        """The numbers that no new VM can be given, as far as known."""
        return self.containers.union((config.vmid for config in self.configs), self.unread)


def read_host(folder: str, storage_cfg: str | None) -> ProxmoxHost:
    """Return the host whose VM configurations are in a folder.

    ``storage_cfg``: the path of ``storage.cfg``; None to look for it beside the folder, then in the folder.

    :raises UsageError: the folder cannot be used, or ``storage.cfg`` cannot be read.
    :raises DefinitionError: ``storage.cfg`` is not valid.
    :raises BatchdiffError: no configuration can be used.
    """
    try:
        names = [name for name in os.listdir(folder) if _CONFIG.fullmatch(name)]
    except OSError as error:
        raise UsageError(f"cannot read {folder}", why=reason(error), remedy=_OTHER_FOLDER) from error
    if not names:
        why = "it contains no VM configuration, such as 101.conf"
        raise UsageError(f"cannot use {folder}", why=why, remedy=_OTHER_FOLDER)
    paths = {_number(name): os.path.join(folder, name) for name in sorted(names, key=_number)}
    path = storage_cfg or _storages_near(folder)
    configs, faults = [], {}
    for vmid, each in paths.items():
        try:
            configs.append(parse_config(_content(each), each))
        except BatchdiffError as error:
            faults[vmid] = error
    if not configs:
        raise next(iter(faults.values()))
    unread = {
        vmid: f"{fault.what}: {fault.why}. Whether VM {vmid} uses a guest is not known"
        for vmid, fault in faults.items()
    }
    return ProxmoxHost(configs, parse_storages(_content(path), path), _containers_near(folder), unread)


def _containers_near(folder: str) -> frozenset[int]:
    try:
        names = os.listdir(os.path.join(os.path.dirname(os.path.abspath(folder)), "lxc"))
    except OSError:
        return frozenset()
    return frozenset(_number(name) for name in names if _CONFIG.fullmatch(name))


def _number(name: str) -> int:
    return int(name.partition(".")[0])


_OTHER_FOLDER = "Name a folder of VM configurations that you can read, such as /etc/pve/qemu-server."


def _storages_near(folder: str) -> str:
    # /etc/pve/qemu-server is a link into nodes/, and storage.cfg is beside the link.
    found = [os.path.join(place, _STORAGES) for place in (os.path.dirname(os.path.abspath(folder)), folder)]
    for path in found:
        if os.path.exists(path):
            return path
    raise UsageError(
        f"cannot find {_STORAGES}",
        why=f"neither {found[0]} nor {found[1]} exists",
        remedy="Give its path, for example `--storage-cfg /etc/pve/storage.cfg`.",
    )


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        remedy = "Make sure that it is a file that you can read."
        raise UsageError(f"cannot read {path}", why=reason(error, Deed.READ, path), remedy=remedy) from error
