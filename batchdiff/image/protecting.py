"""Which files of a template can still be written to by their mode, and what taking that away takes on disk."""

from __future__ import annotations

import os
import stat

from batchdiff.image.contract import Layer
from batchdiff.image.exactness import of_sum
from batchdiff.image.image import Image
from batchdiff.image.overlayfs import CopyUp, copy_up
from batchdiff.image.permissions import WRITE_BITS


def is_writable(layer: Layer) -> bool:
    """Return whether a layer is a file that somebody may write to by its mode."""
    mode = os.fstat(layer.fd).st_mode
    return stat.S_ISREG(mode) and bool(mode & WRITE_BITS)


def protecting(template: Image) -> CopyUp:
    """Return what it takes on disk to take the write bits of all files of a template's chain."""
    found = [copy_up(layer.fd, layer.path) for layer in template.layers if is_writable(layer)]
    return CopyUp(
        sum(each.size for each in found),
        of_sum(each.exactness for each in found),
        "; ".join(each.note for each in found if each.note),
    )
