"""A VM's configuration in Proxmox VE, and edits of its drives.

::

    #a line of the description
    scsi0: local:101/vm-101-disk-0.raw,discard=on,size=32G    a drive: its volume, and options
    template: 1
    unused0: local:101/vm-101-disk-1.raw
    [PENDING]                                                 changes that have yet to take effect
    [before-update]                                           a snapshot: the configuration as it was

Sources: qemu-server, ``parse_vm_config`` in src/PVE/QemuServer.pm, and ``parse_drive`` in
src/PVE/QemuServer/Drive.pm; pve-common, ``parse_property_string`` in src/PVE/JSONSchema.pm; pve-guest-common,
``parse_pending_delete`` in src/PVE/AbstractConfig.pm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from batchdiff.errors import DefinitionError
from batchdiff.frozen import frozen

_SECTION = re.compile(r"\[([^\]]*)\]\s*")
_SETTING = re.compile(r"([a-z][a-z_-]*[0-9]*):\s*(.*\S)\s*")
_DRIVE = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate|unused)[0-9]+")
_FILE_NAME = re.compile(r"(?:.*/)?([1-9][0-9]{2,8})\.conf", re.DOTALL)
_OF_VOLUME = ("file=", "volume=")
_FORMAT = "format="
_DELETE = "delete"

MAIN, PENDING = "", "PENDING"
"""Names of sections; any other section is a snapshot, or has no drives and a name that begins with
``special:``."""


class ConfigDrive(NamedTuple):
    """A drive of a VM.

    ``value``: the text after the colon; ``volume``: the volume or path in it; ``line``: counted from 0.
    """

    section: str
    key: str
    value: str
    volume: str
    line: int

    @property
    def format(self) -> str:
        """The format in which Proxmox VE opens the image; empty if ``format=`` contradicts a volume's name."""
        options = self.value.split(",")
        given = next((each.removeprefix(_FORMAT) for each in options if each.startswith(_FORMAT)), "")
        if self.volume.startswith("/"):
            return given or "raw"
        named = self.volume.rpartition(".")[2]
        return named if given in {"", named} else ""

    @property
    def is_unused(self) -> bool:
        """True if the image is not attached."""
        return self.key.startswith("unused")


@frozen
class VmConfig:
    """The configuration of a VM. ``lock``: empty if the VM is not locked.

    ``pending``: the keys of settings that pending changes replace, add or delete.
    """

    vmid: int
    where: str
    document: bytes
    drives: tuple[ConfigDrive, ...]
    is_template: bool
    lock: str
    pending: frozenset[str]

    def drives_in(self, section: str) -> list[ConfigDrive]:
        """Return the drives in a section."""
        return [drive for drive in self.drives if drive.section == section]


def parse_config(document: bytes, where: str) -> VmConfig:
    """Parse a configuration. ``where``: the path of its file, ``VMID.conf``.

    :raises DefinitionError: the file has another name, or ``document`` is not a configuration.
    """
    named = _FILE_NAME.fullmatch(where)
    if named is None:
        raise DefinitionError(f"cannot use {where}", why="its name must have the form VMID.conf, such as 101.conf")
    section, drives = MAIN, []
    settings: dict[tuple[str, str], str] = {}
    lines = _lines(document)
    for number, line in enumerate(lines):
        if found := _SECTION.fullmatch(line):
            # Proxmox VE ignores the case of PENDING.
            section = PENDING if found[1].upper() == PENDING else found[1]
        elif found := _SETTING.fullmatch(line):
            settings[section, found[1]] = found[2]
            drives += _drives(section, found[1], found[2], number)
    if b"\0" in document or (not settings and any(line.strip() for line in lines if line[:1] != "#")):
        raise DefinitionError(
            f"cannot use {where}",
            why="it is not a VM configuration, which consists of lines of the form KEY: VALUE",
        )
    return VmConfig(
        vmid=int(named[1]),
        where=where,
        document=document,
        drives=tuple(drives),
        is_template=settings.get((MAIN, "template")) == "1",
        lock=settings.get((MAIN, "lock"), ""),
        pending=frozenset(_pending(settings)),
    )


def _pending(settings: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield from (key for section, key in settings if section == PENDING and key != _DELETE)
    for each in re.split(r"[,;\s]+", settings.get((PENDING, _DELETE), "")):
        if each:
            yield each.removeprefix("!")  # a drive with "!" is not only detached: its image is deleted


def _drives(section: str, key: str, value: str, number: int) -> list[ConfigDrive]:
    parts, volume = value.split(","), volume_in(value)
    if not _DRIVE.fullmatch(key) or "media=cdrom" in parts or volume in {"", "none"}:
        return []
    return [ConfigDrive(section, key, value, volume, number)]


def can_be_in_value(volume: str) -> bool:
    """Return whether a drive's value can contain a volume or path."""
    return not re.search(r"[,=\n]", volume) and volume == volume.strip()


def volume_in(value: str) -> str:
    """Return the volume, path or word such as ``none`` in a drive's value; empty if there is none of these."""
    return next(filter(None, map(_volume_in, value.split(","))), "")


def _volume_in(part: str) -> str:
    given = next((part.removeprefix(key) for key in _OF_VOLUME if part.startswith(key)), part)
    return "" if given is part and "=" in part else given.strip()


def with_volume(drive: ConfigDrive, volume: str, image_format: str) -> str:
    """Return a drive's value with another volume or path, and with the option ``format`` adapted or added.

    Proxmox VE does not start a VM if ``format`` contradicts the volume's name.
    """
    parts = [_changed(part, volume, image_format) for part in drive.value.split(",")]
    # Proxmox VE treats an image that is given by path, without ``format``, as raw.
    is_open = volume.startswith("/") and not any(part.startswith(_FORMAT) for part in parts)
    return ",".join([*parts, f"{_FORMAT}{image_format}"] if is_open and not drive.is_unused else parts)


def _changed(part: str, volume: str, image_format: str) -> str:
    if part.startswith(_FORMAT):
        return f"{_FORMAT}{image_format}"
    old = _volume_in(part)
    return part.replace(old, volume) if old else part


def with_value(document: bytes, drive: ConfigDrive, value: str) -> bytes:
    """Return a configuration with another value for a drive."""
    lines = _lines(document)
    key, colon, rest = lines[drive.line].partition(":")
    lines[drive.line] = f"{key}{colon}{rest.replace(drive.value, value)}"
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _lines(document: bytes) -> list[str]:
    return document.decode("utf-8", "surrogateescape").split("\n")
