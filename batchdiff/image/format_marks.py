"""The format that a file's magic number suggests: a hint, because a guest can write such a number to a raw disk.

Source: QEMU's block drivers (block/qcow2.c, qed.c, vmdk.c, vdi.c, vhdx.c, vpc.c, parallels.c) and the LUKS on-disk
format specification.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from batchdiff.errors import ImageError
from batchdiff.image.files import ReadObserver, read_into
from batchdiff.image_source import ImageFormat

_HEAD = 512
_VPC_FOOTER = 512
_VDI_MARK_AT = 0x40

_MARKS = (
    (b"QFI\xfb", 0, ImageFormat.QCOW2),
    (b"QED\0", 0, ImageFormat.QED),
    (b"KDMV", 0, ImageFormat.VMDK),
    (b"# Disk DescriptorFile", 0, ImageFormat.VMDK),
    (b"\x7f\x10\xda\xbe", _VDI_MARK_AT, ImageFormat.VDI),
    (b"vhdxfile", 0, ImageFormat.VHDX),
    (b"conectix", 0, ImageFormat.VPC),
    (b"WithoutFreeSpace", 0, ImageFormat.PARALLELS),
    (b"WithouFreSpacExt", 0, ImageFormat.PARALLELS),
    (b"LUKS\xba\xbe", 0, ImageFormat.LUKS),
)


def looks_like(path: str, observer: ReadObserver | None = None) -> ImageFormat | None:
    """Return the format whose magic number a file has; raw if none is found.

    Return None if the file is missing, cannot be read, or is neither a regular file nor a block device.
    """
    return _marked(path, lambda descriptor: _by_head(descriptor, observer) or _by_footer(descriptor, observer))


def begins_like(path: str, observer: ReadObserver | None = None) -> ImageFormat | None:
    """Return the same as :func:`looks_like`, but ignore a footer, as QEMU does when it guesses a format."""
    return _marked(path, lambda descriptor: _by_head(descriptor, observer) or ImageFormat.RAW)


def _marked(path: str, found: Callable[[int], ImageFormat]) -> ImageFormat | None:
    try:
        # Opening a device can move a tape. O_NONBLOCK: a FIFO that has taken the file's place must not block us.
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
        if head[offset:].startswith(mark):
            return image_format
    return None


def _by_footer(descriptor: int, observer: ReadObserver | None) -> ImageFormat:
    # A fixed-size VHD has its magic number in the footer only.
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size >= _VPC_FOOTER and _read(descriptor, size - _VPC_FOOTER, 8, observer) == b"conectix":
        return ImageFormat.VPC
    return ImageFormat.RAW


def _read(descriptor: int, offset: int, length: int, observer: ReadObserver | None) -> bytes:
    data = bytearray(length)
    return bytes(data[: read_into(descriptor, memoryview(data), offset, "", observer)])
