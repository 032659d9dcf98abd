"""Which files are under a block device, through loop devices, partitions and device-mapper, to the ground.

::

    /dev/loop1p1 --partition of--> /dev/loop1 --loop--> /dev/mapper/x --slaves--> /dev/loop0 --loop--> a.img
                                                                  `--> /dev/sda, a real disk: no file

Source: Linux ``Documentation/ABI/testing/sysfs-block-loop`` and ``Documentation/ABI/stable/sysfs-block``.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from batchdiff.image.identity import Identity, identity_of

_BLOCK = "/sys/dev/block"
_VIRTUAL = ("/sys/devices/virtual/", "/sys/devices/tcm_loop", "/sys/devices/rbd")
"""Where devices are that the kernel makes up: what they show may be anything, also a file of this machine."""


class Underlying(NamedTuple):
    """The files that an image's bytes are in. ``traced``: these are all; else there may be others."""

    files: frozenset[Identity]
    traced: bool = True


def underlying(path: str) -> Underlying:
    """The files that an image is in: itself, and where it is a block device, whatever is under that.

    A device that shows what cannot be told, as one of the network, or of ZFS, is not traced.
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
    """What is under the files of a chain."""
    found = [underlying(path) for path in paths]
    files = frozenset(identity for each in found for identity in each.files)
    return Underlying(files, all(each.traced for each in found))


def _below(device: int) -> list[Identity | None] | None:
    """What is right under a block device; None where that cannot be told."""
    folder = os.path.realpath(f"{_BLOCK}/{os.major(device)}:{os.minor(device)}")
    if os.path.exists(f"{folder}/partition"):
        return [_numbered(os.path.dirname(folder))]
    file = _line(f"{folder}/loop/backing_file")
    if file is not None:
        # Of a deleted one it has " (deleted)" at the end: no file, or another one than it says.
        return [identity_of(file)]
    slaves = _names(f"{folder}/slaves")
    if slaves:
        return [_numbered(f"{folder}/slaves/{name}") for name in slaves]
    is_hardware = os.path.exists(f"{folder}/device") and not folder.startswith(_VIRTUAL)
    return [] if is_hardware else None


def _numbered(folder: str) -> Identity | None:
    """The identity of the block device that a folder of sysfs is about."""
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
