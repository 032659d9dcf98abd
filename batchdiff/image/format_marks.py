"""The format that a file's magic number suggests: only a hint, because a guest can write one to a raw disk.

Source: the probe functions of QEMU's block drivers (``block/*.c``); the LUKS on-disk format specification.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import TypeVar

from batchdiff.errors import ImageError
from batchdiff.image.files import ReadObserver, read_into
from batchdiff.image_source import ImageFormat

_Found = TypeVar("_Found")

_HEAD = 512
"""Bytes from which QEMU guesses a format."""
_VPC_FOOTER = 512
_VDI_MARK_AT = 0x40

_MARKS = (
    (b"QFI\xfb", 0, ImageFormat.QCOW2),
    (b"QED\0", 0, ImageFormat.QED),
    (b"KDMV", 0, ImageFormat.VMDK),
    (b"\x7f\x10\xda\xbe", _VDI_MARK_AT, ImageFormat.VDI),
    (b"vhdxfile", 0, ImageFormat.VHDX),
    (b"conectix", 0, ImageFormat.VPC),
    (b"WithoutFreeSpace", 0, ImageFormat.PARALLELS),
    (b"WithouFreSpacExt", 0, ImageFormat.PARALLELS),
    (b"LUKS\xba\xbe", 0, ImageFormat.LUKS),
)
_DESCRIPTOR = b"# Disk DescriptorFile"
"""The usual beginning of a VMDK's descriptor; QEMU goes by the first line that is not a comment."""

_DESCRIPTOR_TO_QEMU = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")

_ONLY_TO_QEMU = (
    (b"COWD", "vmdk"),
    (b"Bochs Virtual HD Image", "bochs"),
    (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n", "cloop"),
)
"""Beginnings of images of kinds that batchdiff does not read."""

_BY_NAME = (".dmg", "dmg")
"""The suffix by which QEMU goes if it does not recognise the first bytes, and the format that it means."""


def looks_like(path: str, observer: ReadObserver | None = None) -> ImageFormat | None:
    """Return the format that a file's bytes suggest; raw if they suggest none.

    None if the file is unreadable, or cannot hold an image.
    """
    return _marked(path, lambda descriptor: _by_head(descriptor, observer) or _by_footer(descriptor, observer))


def guesses_of_qemu(path: str, name: str, observer: ReadObserver | None = None) -> set[str]:
    """Return QEMU's names of the formats that it may guess for a file if nothing names the file's format.

    Empty if the file is unreadable, or cannot hold an image. ``name``: the name by which QEMU opens it.
    """
    return _marked(path, lambda descriptor: _guesses(_read(descriptor, 0, _HEAD, observer), name)) or set()


def _guesses(head: bytes, name: str) -> set[str]:
    found = {str(image_format) for mark, offset, image_format in _MARKS if head.startswith(mark, offset)}
    found |= {image_format for mark, image_format in _ONLY_TO_QEMU if head.startswith(mark)}
    if _DESCRIPTOR_TO_QEMU.match(head):
        found.add(ImageFormat.VMDK)
    suffix, by_name = _BY_NAME
    return found or {by_name if name.endswith(suffix) else ImageFormat.RAW}


def _marked(path: str, found: Callable[[int], _Found]) -> _Found | None:
    try:
        # Checked before opening, because opening a tape drive can move the tape. O_NONBLOCK: a FIFO that has taken
        # the file's place must not block us.
        if not _can_hold_an_image(os.stat(path)):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        return found(descriptor) if _can_hold_an_image(os.fstat(descriptor)) else None
    except (OSError, ImageError):
        return None
    finally:
        os.close(descriptor)


def _can_hold_an_image(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _by_head(descriptor: int, observer: ReadObserver | None) -> ImageFormat | None:
    head = _read(descriptor, 0, _HEAD, observer)
    for mark, offset, image_format in _MARKS:
        if head.startswith(mark, offset):
            return image_format
    return ImageFormat.VMDK if head.startswith(_DESCRIPTOR) else None


def _by_footer(descriptor: int, observer: ReadObserver | None) -> ImageFormat:
    # A fixed-size VHD has its magic number in the footer only.
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size >= _VPC_FOOTER and _read(descriptor, size - _VPC_FOOTER, 8, observer) == b"conectix":
        return ImageFormat.VPC
    return ImageFormat.RAW


def _read(descriptor: int, offset: int, length: int, observer: ReadObserver | None) -> bytes:
    data = bytearray(length)
    return bytes(data[: read_into(descriptor, memoryview(data), offset, "", observer)])
