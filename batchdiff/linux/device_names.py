"""Names of block devices: those that may refer to another disk after a reboot, and those that last.

::

    /dev/vg/lv  /dev/mapper/x  /dev/disk/by-id/x       kept up to date by udev: they last
       `--> /dev/dm-3  /dev/sdb  /dev/loop7            numbered by the kernel: another disk can get the number
    /dev/disk/by-uuid/x  /dev/disk/by-partuuid/x       taken from the content: copies of one disk share them

An overlay's header keeps the template's name for years, so that name must last.

Source: Linux ``Documentation/admin-guide/devices.txt``; systemd ``rules.d/60-persistent-storage.rules``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

_DEV = "/dev"
_MEMORY_DISKS = "/dev/shm"  # noqa: S108  # only compared: a folder in /dev that is meant for files

_NUMBERED = re.compile(
    r"(?:[hsv]d|xvd|dasd)[a-z]{1,3}\d*"
    r"|(?:nvme\d+(?:c\d+)?n|loop|nbd|rbd|md|md_d|zd|mmcblk|pmem|bcache|ublkb|nullb|sr|zram|ram)\d+(?:p\d+|boot\d+)?"
    r"|dm-\d+"
)
"""drbd is left out: its configuration fixes its numbers."""

_PARTITION_OF_NUMBERED = re.compile(r"mapper/(?:loop|nbd)[0-9]+p[0-9]+")
"""Names that kpartx makes."""
_NUMBERED_FOLDERS = ("block/", "disk/by-diskseq/", "disk/by-loop-inode/")
_COPIED_FOLDERS = ("disk/by-uuid/", "disk/by-label/", "disk/by-partuuid/", "disk/by-partlabel/")
_LEAST_WANTED = ("mapper/", "disk/by-id/", "disk/by-path/", "disk/")
"""The most descriptive first; /dev/vg/lv and the like come before all of these."""

_NO_DISKS = {"bus", "char", "cpu", "dri", "hugepages", "input", "mqueue", "net", "pts", "shm", "snd"}
_MOST_LINKS = 40
"""The kernel's own limit on the links in a path."""


def image_path(path: str) -> str:
    """Return the absolute path by which an image is opened and recorded.

    The last component of a block device's path is kept: /dev/vg/lv lasts, but the /dev/dm-3 that it points to does
    not. Any other path, and any that leads into /proc, is resolved completely.
    """
    folder, name = os.path.split(path)
    named = os.path.join(os.path.realpath(folder), name)
    # /dev/stdin and /dev/fd/3 lead into /proc, and last only as long as their process.
    in_proc = any(each.startswith("/proc/") for each in (named, _target(named) or ""))
    return os.path.realpath(path) if in_proc or device_number(named) is None else named


def device_number(path: str) -> int | None:
    """Return the number of the block device that a path resolves to; None if none is found."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return info.st_rdev if stat.S_ISBLK(info.st_mode) else None


def is_among_devices(path: str) -> bool:
    """Return whether an absolute path is in /dev, where files are lost at a reboot; /dev/shm does not count."""
    return path.startswith(f"{_DEV}/") and not path.startswith(f"{_MEMORY_DISKS}/")


def fleeting(path: str) -> str:
    """Return, as a predicate, why a device's name may refer to another disk later; empty if no reason is known.

    ``path``: as :func:`image_path` returns it.
    """
    name = _first_in_dev(path)
    led = "" if name == path else f"is a link to {name}, which "
    if not name.startswith(f"{_DEV}/"):
        return f"{led}is a device node outside {_DEV}, whose number can belong to another disk after a reboot"
    within = name.removeprefix(f"{_DEV}/")
    if _NUMBERED.fullmatch(within) or within.startswith(_NUMBERED_FOLDERS):
        return f"{led}is numbered by the kernel and can refer to another disk after a reboot"
    if _PARTITION_OF_NUMBERED.fullmatch(within):
        return f"{led}is named after a device that is numbered by the kernel, and can refer to another disk later"
    if within.startswith(_COPIED_FOLDERS):
        return f"{led}is named after the disk's content, which copies of the disk share"
    return ""


def lasting_alias(number: int) -> str | None:
    """Return the best lasting name of a block device, given its ``st_rdev``; None if none is found."""
    found = [path for path in _names() if device_number(path) == number and not fleeting(path)]
    return min(found, key=_preference, default=None)


def _first_in_dev(path: str) -> str:
    """Follow a path's links to the first name in /dev; if there is none, to the last name.

    Links within /dev are not followed: udev keeps them up to date.
    """
    for _ in range(_MOST_LINKS):
        target = None if path.startswith(f"{_DEV}/") else _target(path)
        if target is None:
            break
        folder, name = os.path.split(os.path.join(os.path.dirname(path), target))
        path = os.path.join(os.path.realpath(folder), name)
    return path


def _names() -> Iterator[str]:
    for folder, folders, names in os.walk(_DEV):
        folders[:] = [each for each in folders if each not in _NO_DISKS]
        yield from (os.path.join(folder, name) for name in names)


def _preference(path: str) -> tuple[int, int, str]:
    within = path.removeprefix(f"{_DEV}/")
    rank = next((at for at, folder in enumerate(_LEAST_WANTED) if within.startswith(folder)), -1)
    return rank, len(path), path


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
