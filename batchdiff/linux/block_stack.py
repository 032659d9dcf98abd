"""The files and devices below a block device, traced through loop devices, partitions and device-mapper.

::

    /dev/loop1p1 --partition of--> /dev/loop1 --loop--> /dev/mapper/x --slaves--> /dev/loop0 --loop--> a.img
                                                                  `--> /dev/sda, a real disk: no file

Source: Linux ``Documentation/ABI/testing/sysfs-block-loop`` and ``Documentation/ABI/stable/sysfs-block``.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from batchdiff.files.identity import Identity, identity_of

_BLOCK = "/sys/dev/block"
_VIRTUAL = ("/sys/devices/virtual/", "/sys/devices/tcm_loop", "/sys/devices/rbd")
"""The beginnings of the folders of virtual devices, whose content can come from anywhere, even from a file on this
machine."""


class Underlying(NamedTuple):
    """The files and devices that store the bytes of an image. ``traced``: whether all of them are known."""

    files: frozenset[Identity]
    traced: bool = True


def underlying(path: str) -> Underlying:
    """Return what stores an image: its own file or block device, and everything below that device.

    ``traced`` is False if there is no such file, or if a device has an unknown source, such as a network disk or a
    ZFS volume.
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
    """Return what stores the images of a chain."""
    found = [underlying(path) for path in paths]
    files = frozenset(identity for each in found for identity in each.files)
    return Underlying(files, all(each.traced for each in found))


def _below(device: int) -> list[Identity | None] | None:
    """Return the files and devices directly below a block device, none below a real disk; None if unknown."""
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
    is_hardware = os.path.exists(f"{folder}/device") and not folder.startswith(_VIRTUAL)
    return [] if is_hardware else None


def _numbered(folder: str) -> Identity | None:
    """Return the identity of the block device that a sysfs folder describes; None if it cannot be read."""
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
