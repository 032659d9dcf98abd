"""The write permission of a template's files, and the disk space that removing it takes."""

from __future__ import annotations

import os
import stat

from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.image.storage.exactness import of_sum
from batchdiff.image.storage.overlayfs import CopyUp, copy_up
from batchdiff.linux.permissions import WRITE_BITS


def is_writable(layer: Layer) -> bool:
    """Return whether a layer's file is regular and its mode has a write bit."""
    mode = os.fstat(layer.fd).st_mode
    return stat.S_ISREG(mode) and bool(mode & WRITE_BITS)


def protecting(template: Image) -> CopyUp:
    """Return the disk space that removing the write bits from a template's files takes."""
    found = [copy_up(layer.fd, layer.path) for layer in template.layers if is_writable(layer)]
    return CopyUp(
        sum(each.size for each in found),
        of_sum(each.exactness for each in found),
        "; ".join(each.note for each in found if each.note),
    )
