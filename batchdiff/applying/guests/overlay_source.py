"""The overlay of a guest as it is now, perhaps weeks after apply: compacted, copied, resized or flattened.

::

    its header names              it is read
    the template                  with the declared chain
    nothing: it was flattened     without a backing file
    anything else                 not at all: opening it is refused
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from batchdiff.errors import ImageError
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.plan import GuestToConvert


def planned_overlay(guest: GuestToConvert, template: ImageSource) -> ImageSource:
    """Return a guest's overlay as apply wrote it, with its backing chain."""
    return ImageSource(guest.overlay_path, ImageFormat.QCOW2, (template, *template.backing))


def current_overlay(source: ImageSource) -> ImageSource:
    """Return the overlay as it is now: without its backing chain, if it has been flattened."""
    try:
        with closing(open_layer(source)) as layer:
            backing = layer.backing
    except ImageError:  # opening it will report what is wrong
        return source
    return source if backing is not None else replace(source, backing=())
