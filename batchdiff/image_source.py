"""The declared path, format and backing chain of an image: all that a worker needs to open it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ImageFormat(enum.StrEnum):
    """The formats that a manifest may name; :mod:`batchdiff.image.formats` defines how each is read."""

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
    """One image file: an absolute path, its declared format and its declared backing chain.

    The path has no symbolic links, except for the last component of a block device's name, such as /dev/vg/lv.

    ``backing`` lists the images below this one, the nearest first; no other files are opened for it.
    ``secret_file``: the file with the secret of an encrypted image: an absolute path, or a descriptor's, such as
    /dev/fd/3.
    """

    path: str
    format: ImageFormat
    backing: tuple[ImageSource, ...] = ()
    secret_file: str | None = None
