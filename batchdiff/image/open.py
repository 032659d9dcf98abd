"""Opening of images, with exactly the backing chain that is declared for them."""

from __future__ import annotations

import os

from batchdiff.errors import ImageError
from batchdiff.files.filenames import shell_line
from batchdiff.files.identity import is_one_image
from batchdiff.image import files
from batchdiff.image.backing_names import check_backing, resolved_backing
from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image.qcow2_tables import read_header
from batchdiff.image.raw import RawLayer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.faults import ENCRYPTED
from batchdiff.qcow2.header import Header

MAX_CHAIN = 200
"""Deeper chains are refused (docs/safety.md); QEMU itself needs a minute to open one of 1,000."""


class OverlayError(ImageError):
    """An image has the one backing file that it was not to have; see :func:`open_image`."""


def open_image(source: ImageSource, *, no_overlay_of: str | None = None) -> Image:
    """Open an image with its declared backing chain, and check every header.

    A backing file that a header names is opened only if it is the next image declared. ``no_overlay_of``: the path
    of a file that must not be the backing file of the image.

    :raises OverlayError: it is, declared or not.
    :raises ImageError: a file is missing, damaged or of another format, or the chain is not as declared.
    """
    layers: list[Layer] = []
    try:
        for declared, following in _declared(source):
            layer = _open_layer(declared)
            layers.append(layer)
            if no_overlay_of is not None and len(layers) == 1:
                _check_not_above(layer, no_overlay_of)
            check_backing(layer, following, top=source)
            # Only now: the tables of an overlay that a VM is writing to may be inconsistent for a moment.
            if isinstance(layer, Qcow2Layer):
                layer.read_tables()
    except BaseException:
        for layer in layers:
            layer.close()
        raise
    return Image(source, layers)


def inspect(image: Image) -> None:
    """Check all tables of every qcow2 file in a chain.

    :raises ImageError: one is damaged or hostile.
    """
    for layer in image.layers:
        if isinstance(layer, Qcow2Layer):
            layer.inspect()


def peek_header(path: str) -> Header:
    """Return the header of a qcow2 file, without opening any file that it names.

    :raises ImageError: the file is missing, or is not a valid qcow2 image.
    """
    fd = files.open_image_file(path)
    try:
        return read_header(fd, path, files.content_size(fd))
    finally:
        os.close(fd)


def _declared(source: ImageSource) -> list[tuple[ImageSource, ImageSource | None]]:
    chain = [source, *source.backing]
    if len(chain) > MAX_CHAIN:
        raise ImageError(
            f"cannot use {source.path}",
            why=f"its backing chain is more than {MAX_CHAIN} images deep",
            remedy="Merge the chain into one image with `qemu-img convert`.",
        )
    return list(zip(chain, [*chain[1:], None], strict=True))


def _check_not_above(layer: Layer, path: str) -> None:
    named = resolved_backing(layer.path, layer.header) if isinstance(layer, Qcow2Layer) else None
    if named is not None and is_one_image(path, named):
        raise OverlayError(f"cannot use {layer.path}", why=f"it is an overlay of {path}")


def _open_layer(source: ImageSource) -> Layer:
    match source.format:
        case ImageFormat.RAW:
            layer: Layer = RawLayer(source.path)
        case ImageFormat.QCOW2:
            layer = Qcow2Layer(source.path)
        case ImageFormat.LUKS:
            raise ImageError(f"cannot use {source.path}", why="it is encrypted", remedy=ENCRYPTED)
        case other:
            copy = shell_line(
                ["qemu-img", "convert", "-f", other, "-O", "qcow2", source.path, f"{source.path}.qcow2"]
            )
            raise ImageError(
                f"cannot use {source.path}",
                why=f"the format {other} is not supported yet (raw and qcow2 are)",
                remedy=f"Make a qcow2 copy and use that in the manifest: `{copy}`.",
            )
    if layer.virtual_size == 0:
        layer.close()
        raise ImageError(
            f"cannot use {source.path}",
            why="it is empty (virtual size 0)",
            remedy="Leave it out of the manifest, or restore it from a backup.",
        )
    return layer
