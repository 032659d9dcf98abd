"""The files and block devices that store an image.

::

    /dev/loop1p1 --partition of--> /dev/loop1 --loop--> /dev/mapper/x --slaves--> /dev/loop0 --loop--> a.img
                                                                  `--> /dev/sda, a real disk: no file

Source: Linux ``Documentation/ABI/testing/sysfs-block-loop`` and ``Documentation/ABI/stable/sysfs-block``.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from batchdiff.files.identity import Identity, identity_of

_BLOCK = "/sys/dev/block"
_VIRTUAL = ("/sys/devices/virtual/", "/sys/devices/tcm_loop", "/sys/devices/rbd")
"""The content of these devices can come from anywhere, even from a file on this machine."""


_OF_ISCSI = re.compile(r"/host[0-9]+/session[0-9]+/")
"""The target of an iSCSI disk can be on this machine, too."""


class Underlying(NamedTuple):
    """The files and block devices that store images. ``traced``: whether all are known.

    The devices of the files' filesystems are not included.
    """

    files: frozenset[Identity]
    traced: bool = True


def underlying(path: str) -> Underlying:
    """Return an image's file or block device, and the files and devices below it.

    ``traced`` is False if one of them cannot be identified, or if a device has an unknown source (nbd, ZFS).
    """
    files: set[Identity] = set()
    traced = True
    pending = [identity_of(path)]
    while pending:
        each = pending.pop()
        if each is None:
            traced = False
        elif each not in files:
            files.add(each)
            below = _below(each[1]) if each[0] == "device" else []
            traced = traced and below is not None
            pending += below or []
    return Underlying(frozenset(files), traced)


def all_underlying(paths: tuple[str, ...]) -> Underlying:
    """Return the files and devices that store any of several images."""
    found = [underlying(path) for path in paths]
    files = frozenset(identity for each in found for identity in each.files)
    return Underlying(files, all(each.traced for each in found))


def _below(device: int) -> list[Identity | None] | None:
    """Return the files and devices directly below a device; empty for a real disk, None if unknown."""
    folder = os.path.realpath(f"{_BLOCK}/{os.major(device)}:{os.minor(device)}")
    if os.path.exists(f"{folder}/partition"):
        return [_numbered(os.path.dirname(folder))]
    file = _line(f"{folder}/loop/backing_file")
    if file is not None:
        # The path of a deleted file ends in " (deleted)", and so names no file, or the wrong one.
        return [identity_of(file)]
    slaves = _names(f"{folder}/slaves")
    if slaves:
        return [_numbered(f"{folder}/slaves/{name}") for name in slaves]
    is_virtual = folder.startswith(_VIRTUAL) or _OF_ISCSI.search(folder) is not None
    is_hardware = os.path.exists(f"{folder}/device") and not is_virtual
    return [] if is_hardware else None


def _numbered(folder: str) -> Identity | None:
    major, _, minor = (_line(f"{folder}/dev") or "").partition(":")
    return ("device", os.makedev(int(major), int(minor)), 0) if major and minor else None


def _line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().removesuffix("\n")
    except OSError:
        return None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
