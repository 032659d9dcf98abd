"""Where an image is and what it is said to be: all that a worker needs to open it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ImageFormat(enum.StrEnum):
    """The formats that a manifest may name; :mod:`batchdiff.image.opening` says which can be read so far."""

    RAW = "raw"
    QCOW2 = "qcow2"
    QED = "qed"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VPC = "vpc"
    PARALLELS = "parallels"
    LUKS = "luks"


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One image file: an absolute path, its declared format and its declared chain.

    The path has no symbolic links, but for the last component of a block device's name, such as /dev/vg/lv.

    ``backing`` lists the images below this one, the next one first; only these are ever opened for it.
    """

    path: str
    format: ImageFormat
    backing: tuple[ImageSource, ...] = ()
