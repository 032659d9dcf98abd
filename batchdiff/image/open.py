"""Images, opened with their declared backing chains."""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchdiff.errors import ImageError
from batchdiff.files.identity import is_one_image
from batchdiff.image.backing_names import check_backing, resolved_backing
from batchdiff.image.files import ReadObserver, is_block_device
from batchdiff.image.image import Image, others_of
from batchdiff.image.layer import Layer
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image.raw import RawLayer
from batchdiff.image_source import MAX_CHAIN, ImageFormat, ImageSource
from batchdiff.qcow2.faults import SHOULD_HAVE_CONTENT
from batchdiff.units import few


class OverlayError(ImageError):
    """An image has a backing file that it must not have."""


def open_image(
    source: ImageSource, *, no_overlay_of: str | None = None, observer: ReadObserver | None = None
) -> Image:
    """Open an image with exactly the backing chain that is declared for it.

    :raises OverlayError: the header names ``no_overlay_of`` as the backing file.
    :raises ImageError: the chain cannot be used, or is not as declared.
    """
    layers: list[Layer] = []
    try:
        for declared, following in _declared(source):
            layer = open_layer(declared, observer)
            layers.append(layer)
            _check_others(declared, layer)
            _check_not_empty(layer)
            if no_overlay_of is not None and len(layers) == 1:
                _check_not_above(declared, layer, no_overlay_of)
            check_backing(declared, layer.backing, following, top=source, observer=observer)
            # Read qcow2's tables last: if a VM is writing to an overlay, they may be inconsistent, but the checks
            # above still recognise the overlay.
            layer.read_tables()
    except BaseException:
        for layer in layers:
            layer.close()
        raise
    return Image(source, layers)


def open_layer(source: ImageSource, observer: ReadObserver | None = None) -> Layer:
    """Open one image of a chain, without backing files.

    :raises ImageError: the image, or a file that it needs, cannot be used.
    """
    if source.format is ImageFormat.RAW:
        return RawLayer(source, observer)
    if not _needs_table(source):
        layer = Qcow2Layer(source, observer)
        if layer.header.luks_header is None:
            return layer
        layer.close()  # encrypted, but no secret file is declared: the opener in FORMATS refuses it
    # Loaded only now: it imports dozens of modules that raw and plain qcow2 images do not need.
    from batchdiff.image.formats import FORMATS  # noqa: PLC0415

    return FORMATS[source.format].opener(source, observer)


def load_formats(sources: Iterable[ImageSource]) -> None:
    """Load the modules for the declared formats now, because batchdiff may be updated during a long scan."""
    if any(_needs_table(each) for source in sources for each in (source, *source.backing)):
        from batchdiff.image import formats  # noqa: F401, PLC0415


def _needs_table(source: ImageSource) -> bool:
    return source.format not in (ImageFormat.RAW, ImageFormat.QCOW2) or source.secret_file is not None


def inspect(image: Image, *, refcounts: bool = False) -> None:
    """Inspect every layer of an image.

    ``refcounts``: also refuse an image that is dangerous only if it is written to.

    :raises ImageError: a layer is not sound, or cannot be read.
    """
    for layer in image.layers:
        layer.inspect(refcounts=refcounts)


def _declared(source: ImageSource) -> list[tuple[ImageSource, ImageSource | None]]:
    chain = [source, *source.backing]
    if len(chain) > MAX_CHAIN:
        raise ImageError(
            f"cannot use {source.path}",
            path=source.path,
            why=f"its backing chain is more than {MAX_CHAIN} images deep",
            remedy="Merge the chain into one image with `qemu-img convert`.",
        )
    return list(zip(chain, [*chain[1:], None], strict=True))


def _check_others(source: ImageSource, layer: Layer) -> None:
    if source.other_files and source.other_files != layer.other_files:
        raise ImageError(
            f"cannot use {source.path}",
            path=source.path,
            why=f"its other files are not those in the plan: {_listed(layer.other_files)} instead of"
            f" {_listed(source.other_files)}",
            remedy="Bring back the files that the plan lists, and make sure that the image names them.",
        )
    seen = {_identity(layer)}
    for other in others_of(layer):
        if is_block_device(other.fd):  # put there after the name was checked
            raise ImageError(
                f"cannot use {source.path}",
                path=source.path,
                why=f"{other.path}, a part of it, is a block device",
                remedy="Put the regular file back.",
            )
        if _identity(other) in seen:
            raise ImageError(
                f"cannot use {source.path}",
                path=source.path,
                why=f"it names {other.path} twice, or as a part of itself",
                remedy="If QEMU opens it, make a qcow2 copy with `qemu-img convert`, and use that in the manifest."
                " Otherwise restore it from a backup.",
            )
        seen.add(_identity(other))


def _identity(layer: Layer) -> tuple[int, int]:
    status = os.fstat(layer.fd)
    return status.st_dev, status.st_ino


def _listed(files: tuple[str, ...]) -> str:
    return few(files) if files else "none"


def _check_not_above(source: ImageSource, layer: Layer, path: str) -> None:
    named = resolved_backing(source, layer.backing)
    if named is not None and is_one_image(path, named):
        raise OverlayError(f"cannot use {source.path}", why=f"it is an overlay of {path}")


def _check_not_empty(layer: Layer) -> None:
    if layer.virtual_size == 0:
        raise ImageError(
            f"cannot use {layer.path}",
            path=layer.path,
            why="it is empty (virtual size 0)",
            remedy=SHOULD_HAVE_CONTENT,
        )
