"""The overlay of a guest, as planned and as it is now.

::

    its header names              it is read
    the template                  with the declared chain
    nothing: it was flattened     without a backing file
    anything else                 not at all: opening it is refused
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace

from batchdiff.errors import ImageError
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.plan import GuestToConvert


def planned_overlay(guest: GuestToConvert, template: ImageSource) -> ImageSource:
    """Return a guest's overlay as planned."""
    chosen = guest.options.encryption
    secret = None if chosen is None else chosen.secret_file
    form, data_file = ImageFormat(guest.options.format), guest.options.data_file
    others = () if data_file is None else (data_file,)
    backing = (template, *template.backing)
    return ImageSource(guest.overlay_path, form, backing, secret_file=secret, other_files=others)


def current_overlay(source: ImageSource) -> ImageSource:
    """Return the overlay as it is now. ``source``: as planned, at the present path.

    Since it was made, the overlay may have been flattened or decrypted, or have got another data file.
    """
    for secret in dict.fromkeys((source.secret_file, None)):
        found = replace(source, secret_file=secret)
        with suppress(ImageError), closing(open_layer(found)) as layer:
            found = replace(found, other_files=layer.other_files)
            return found if layer.backing is not None else replace(found, backing=())
    return source  # opening it will report what is wrong
