"""What is mounted where, as the kernel tells it.

::

    36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue     /proc/self/mountinfo
    id                                                  type source    options

Source: Linux ``Documentation/filesystems/proc.rst``, 3.5.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount; ``read_only``: the whole filesystem, not this view of it.

    ``root``: which folder of the filesystem is at ``point``; ``options``: those of the whole filesystem.
    """

    number: int
    device: int
    point: str
    filesystem: str
    source: str
    read_only: bool
    root: str = "/"
    options: tuple[str, ...] = ()

    def option(self, name: str) -> str | None:
        """Return what an option is set to, empty if it has no value; None if it is not set."""
        found = (each.partition("=") for each in self.options)
        return next((value for key, _, value in found if key == name), None)


def mounts() -> list[Mount]:
    """All mounts that this process can see; none where /proc is missing."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return [parsed(line) for line in file]
    except OSError:
        return []


def parsed(line: str) -> Mount:
    """A line of mountinfo."""
    place, _, what = line.rstrip("\n").partition(" - ")
    number, _, device, root, point = place.split(" ")[:5]
    filesystem, source, options = what.split(" ")[:3]
    major, minor = device.split(":")
    return Mount(
        number=int(number),
        device=os.makedev(int(major), int(minor)),
        point=_plain(point),
        filesystem=filesystem,
        source=_plain(source),
        read_only="ro" in options.split(","),
        root=_plain(root),
        options=tuple(_plain(option) for option in options.split(",")),
    )


def filesystem_of(fd: int) -> str:
    """The type of filesystem on which an open file is; empty where that cannot be told.

    By the number of the mount: the device numbers of btrfs's subvolumes are in no list.
    """
    mount = mount_under(fd)
    return "" if mount is None else mount.filesystem


def mount_under(fd: int) -> Mount | None:
    """Return the mount through which a file was opened; None if it is in no list."""
    number = _mount_number(fd)
    return next((mount for mount in mounts() if mount.number == number), None)


def mounts_of(device: int) -> list[Mount]:
    """The mounts of a block device, by its number."""
    return [mount for mount in mounts() if device in {mount.device, _device_at(mount.source)}]


def _mount_number(fd: int) -> int | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            found = [line.split()[1] for line in file if line.startswith("mnt_id:")]
    except OSError:
        return None
    return int(found[0]) if found else None


def _device_at(source: str) -> int | None:
    try:
        return os.stat(source).st_rdev if source.startswith("/") else None
    except OSError:
        return None


def _plain(text: str) -> str:
    r"""A path without its escapes: a space is written as \040."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
