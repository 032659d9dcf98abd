"""The path, declared format, chain and secret of an image: all that a worker needs to open it."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen

MAX_CHAIN = 200
"""The maximum number of images in a chain, the top one included (docs/deep-chains.md).

libvirt has the same limit, and QEMU needs a minute to open a chain of 1,000 images.
"""


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


@frozen
class ImageSource:
    """One image file: an absolute path, its declared format and its declared backing chain.

    The path has no symbolic links, but the last component of a block device's path (/dev/vg/lv) may be one.

    ``backing`` lists the images below this one, the nearest first. ``secret_file``: the file with the secret of an
    encrypted image, by its absolute path or a descriptor's (/dev/fd/3). Extents and data files are opened only
    beside the image and in ``allow_folders``, absolute paths without symbolic links; ``other_files``:
    the extents and data files of an image that was opened, in the order in which it names them.
    """

    path: str
    format: ImageFormat
    backing: tuple[ImageSource, ...] = ()
    secret_file: str | None = None
    allow_folders: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all files of the chain: the images, this one first, then their extents and data files."""
        chain = (self, *self.backing)
        others = (path for image in chain for path in image.other_files)
        return (*(image.path for image in chain), *others)
