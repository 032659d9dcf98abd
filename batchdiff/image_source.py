"""The path, declared format, chain and secret of an image: all that a worker needs to open it."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen

MAX_CHAIN = 200
"""The maximum number of images in a chain, the top one included (docs/deep-chains.md)."""


class ImageFormat(enum.StrEnum):
    """The formats that a manifest may name for an image."""

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
    """An image and its declared chain.

    ``path`` is absolute, or empty for an image that is not opened by its path. It has no symbolic links, but the
    last component of a block device's path (/dev/vg/lv) may be one.

    ``backing``: the images below this one, the nearest first. ``secret_file``: an absolute path, possibly
    that of a descriptor (/dev/fd/3). ``allow_folders``: the folders, besides the image's own, that are allowed to
    contain its extents and data file, as absolute paths without symbolic links. ``other_files``: these extents or
    this data file, in the order in which the image names them; empty also if they are not known yet.
    """

    path: str
    format: ImageFormat
    backing: tuple[ImageSource, ...] = ()
    secret_file: str | None = None
    allow_folders: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the chain's images, from this one down, then of their known extents and data files."""
        chain = (self, *self.backing)
        others = (path for image in chain for path in image.other_files)
        return (*(image.path for image in chain), *others)
