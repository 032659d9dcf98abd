"""Opens an image with exactly the chain that was declared for it."""

from __future__ import annotations

import os
import shlex

from batchdiff.errors import ImageError
from batchdiff.image import files
from batchdiff.image.contract import Layer
from batchdiff.image.identity import is_one_image
from batchdiff.image.image import Image
from batchdiff.image.names import unfit
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image.qcow2_tables import read_header
from batchdiff.image.raw import RawLayer
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.qcow2.header import Header

MAX_CHAIN = 200
"""Deeper chains are refused (docs/safety.md); QEMU itself needs a minute to open one of 1,000."""


def open_image(source: ImageSource) -> Image:
    """An image with its declared chain, every header checked.

    A backing file that a header names is never looked for: it must be the next image declared.

    :raises ImageError: a file is missing, damaged, of another format, or the chain is not as declared.
    """
    layers: list[Layer] = []
    try:
        for declared, following in _declared(source):
            layers.append(_open_layer(declared))
            _check_backing(layers[-1], following, top=source)
    except BaseException:
        for layer in layers:
            layer.close()
        raise
    return Image(source, layers)


def inspect(image: Image) -> None:
    """Checks the tables of every qcow2 file of a chain in full.

    :raises ImageError: one is damaged or hostile.
    """
    for layer in image.layers:
        if isinstance(layer, Qcow2Layer):
            layer.inspect()


def peek_header(path: str) -> Header:
    """The header of a qcow2 file on its own; nothing that it names is opened.

    :raises ImageError: it is missing, or no sound qcow2 image.
    """
    fd = files.open_image_file(path)
    try:
        return read_header(fd, path, files.content_size(fd))
    finally:
        os.close(fd)


def _declared(source: ImageSource) -> list[tuple[ImageSource, ImageSource | None]]:
    chain = [source, *source.backing]
    if len(chain) > MAX_CHAIN:
        raise ImageError(f"cannot use {source.path}", why=f"its chain is more than {MAX_CHAIN} images deep")
    return list(zip(chain, [*chain[1:], None], strict=True))


def _open_layer(source: ImageSource) -> Layer:
    match source.format:
        case ImageFormat.RAW:
            layer: Layer = RawLayer(source.path)
        case ImageFormat.QCOW2:
            layer = Qcow2Layer(source.path)
        case other:
            raise ImageError(
                f"cannot use {source.path}",
                why=f"the format {other} is not supported yet (raw and qcow2 are)",
                remedy=f"Convert it: `qemu-img convert -f {other} -O qcow2 ...`.",
            )
    if layer.virtual_size == 0:
        layer.close()
        raise ImageError(f"cannot use {source.path}", why="it is empty (virtual size 0)")
    return layer


def _check_backing(layer: Layer, declared: ImageSource | None, *, top: ImageSource) -> None:
    named = resolved_backing(layer.path, layer.header) if isinstance(layer, Qcow2Layer) else None
    if named is None:
        if declared is not None:
            raise ImageError(
                f"cannot use {layer.path}",
                why=f"the manifest declares {declared.path} below it, but it names no backing file",
                remedy="Correct the `backing` list of the manifest.",
            )
    elif declared is None:
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"it rests on the backing file {named}, which the manifest does not declare",
            remedy=f"If that is right, add it to the `backing` list of {os.path.basename(top.path)}.",
        )
    elif not is_one_image(declared.path, named):
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"its header names {named} as its backing file, but {declared.path} is declared below it",
            remedy=_correction(layer, declared, named),
        )
    elif _contradicts(layer, declared):
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"its header and the manifest name different formats for its backing file {named}",
            remedy="Correct the `backing` list of the manifest.",
        )


def _correction(layer: Layer, declared: ImageSource, named: str) -> str:
    """How to make header and declaration agree: mostly the images moved, and the header has the former name.

    While the file that the header names is still there, it may be a snapshot with content of its own.
    """
    name = declared.path
    if isinstance(layer, Qcow2Layer) and not os.path.isabs(layer.header.backing_name or "/"):
        # With ./ before it nothing in the name is taken for a protocol.
        name = f"./{os.path.relpath(declared.path, os.path.dirname(layer.path))}"
    unsafe = [] if os.path.lexists(named) else ["-u"]
    command = ["qemu-img", "rebase", *unsafe, "-f", "qcow2", "-F", declared.format.value, "-b", name, layer.path]
    if not unsafe:
        return (
            f"If it is to rest on that alone, with all that it shows now: `{shlex.join(command)}`."
            " If the header is right, correct the `backing` list of the manifest."
        )
    return (
        f"If that file moved there, correct the header: `{shlex.join(command)}`."
        " If it is another file, correct the `backing` list of the manifest."
    )


def _contradicts(layer: Layer, declared: ImageSource) -> bool:
    if not isinstance(layer, Qcow2Layer) or layer.header.backing_format is None:
        return False
    return layer.header.backing_format != declared.format.value


def resolved_backing(path: str, header: Header) -> str | None:
    """The absolute path that a header's backing name means, relative to the image's folder; None without one.

    :raises ImageError: it names something else than a file.
    """
    name = header.backing_name
    if name is None:
        return None
    protocol = name.split("/", 1)[0]
    if ":" in protocol or unfit(name):
        raise ImageError(
            f"cannot use {path}",
            why=f"its backing file name {name!r} is no plain path; protocols are never followed",
        )
    return os.path.realpath(os.path.join(os.path.dirname(path), name))
