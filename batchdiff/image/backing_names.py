"""The backing file that a qcow2 image names: the file that QEMU takes it for, compared with the declared one.

::

    low.raw          relative to the image's folder        file:/images/low.raw    the same as without file:
    /images/low.raw  the file                              file:low.raw            relative to any folder: refused
                                                           nbd://..., json:...     refused

Source: QEMU ``block.c``, ``bdrv_get_full_backing_filename()``; ``raw_parse_filename()`` in ``block/file-posix.c``.
"""

from __future__ import annotations

import contextlib
import os
import stat

from batchdiff.errors import ImageError
from batchdiff.files.filenames import shell_line, unfit
from batchdiff.files.identity import is_one_image
from batchdiff.image.format_marks import begins_like, looks_like
from batchdiff.image.layer import Layer
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.header import Header

_FILE = "file:"
"""QEMU's protocol prefix for plain files, which it strips."""

_PLAIN_DRIVERS = {"file": stat.S_ISREG, "host_device": stat.S_ISBLK}
"""QEMU's drivers below every format. Named as a format, they mean the bytes as they are, so raw."""


def check_backing(layer: Layer, declared: ImageSource | None, *, top: ImageSource) -> None:
    """Require that an image names as its backing file the one that is declared, or none if none is.

    ``top``: the image to whose backing chain the layer belongs.

    :raises ImageError: they differ, or QEMU would read the file in another format.
    """
    # Four ways to disagree: declared but not named, named but not declared, another file, another format.
    named = resolved_backing(layer.path, layer.header) if isinstance(layer, Qcow2Layer) else None
    if named is None:
        if declared is not None:
            raise ImageError(
                f"cannot use {layer.path}",
                why=f"the manifest declares {declared.path} as its backing file, but it names none",
                remedy="Correct the `backing` list of the manifest.",
            )
    elif declared is None:
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"it has the backing file {named}, which the manifest does not declare",
            remedy=f"If that is right, add it to the `backing` list of {os.path.basename(top.path)}.",
        )
    elif not is_one_image(declared.path, named):
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"its header names the backing file {named}, but the manifest declares {declared.path}",
            remedy=_correction(layer, declared, named),
        )
    elif _contradicts(layer, declared):
        raise ImageError(
            f"cannot use {layer.path}",
            why=f"QEMU would not read its backing file {named} as {declared.format}, which the manifest declares",
            remedy="Correct the `backing` list of the manifest; or, if that is right, the header:"
            f" {_header_corrected(layer, declared)}.",
        )


def _correction(layer: Layer, declared: ImageSource, named: str) -> str:
    """Return the remedy for a header that names another file than the declared one.

    Usually the images have moved, and the header has the old name: then only the header changes. If the file that
    it names still exists, it may be a snapshot with content of its own: then the data must be kept.
    """
    name = declared.path
    if isinstance(layer, Qcow2Layer) and not os.path.isabs(layer.header.backing_name or "/"):
        # With ./ in front, QEMU takes no part of the name for a protocol.
        name = f"./{os.path.relpath(declared.path, os.path.dirname(layer.path))}"
    unsafe = [] if os.path.lexists(named) else ["-u"]
    command = ["qemu-img", "rebase", *unsafe, "-f", "qcow2", "-F", declared.format.value, "-b", name, layer.path]
    if not unsafe:
        return (
            f"To make that file its backing file, with the same content as now: `{shell_line(command)}`."
            " If the header is right, correct the `backing` list of the manifest."
        )
    return (
        f"If that file moved there, correct the header: `{shell_line(command)}`."
        " If it is another file, correct the `backing` list of the manifest."
    )


def _contradicts(layer: Layer, declared: ImageSource) -> bool:
    """Return whether QEMU would read the backing file in another format than the declared one."""
    if not isinstance(layer, Qcow2Layer):
        return False
    named = layer.header.backing_format
    if named is None:
        # QEMU guesses from the first bytes. A file that is declared qcow2 is checked when it is opened.
        return declared.format is ImageFormat.RAW and begins_like(declared.path) not in {None, ImageFormat.RAW}
    if named in _PLAIN_DRIVERS and declared.format is ImageFormat.RAW:
        with contextlib.suppress(OSError):  # opening it reports the error
            return not _PLAIN_DRIVERS[named](os.stat(declared.path).st_mode)
        return False
    return named != declared.format.value


def _header_corrected(layer: Layer, declared: ImageSource) -> str:
    """Return the command that writes the declared format into a header and changes nothing else."""
    name = layer.header.backing_name if isinstance(layer, Qcow2Layer) else None
    return _rebase(layer.path, declared.format, name or declared.path)


def _rebase(path: str, form: str, name: str) -> str:
    return f"`{shell_line(['qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', str(form), '-b', name, path])}`"


def resolved_backing(path: str, header: Header) -> str | None:
    """Return the absolute path of the backing file that a header names; None if it names none.

    A relative name starts at the image's folder.

    :raises ImageError: it does not name a file, or a file that depends on the folder in which QEMU is started.
    """
    name = header.backing_name
    if name is None:
        return None
    plain = name.removeprefix(_FILE)
    if plain != name and not os.path.isabs(plain) and not unfit(plain):
        raise _depends_on_who_opens_it(path, header, plain)
    if (plain == name and ":" in name.split("/", 1)[0]) or unfit(plain):
        copy = shell_line(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path, f"{path}.whole"])
        raise ImageError(
            f"cannot use {path}",
            why=f"its backing file name {name!r} is not a plain path; protocols are never followed",
            remedy=f"If you trust it, make a standalone copy and use that: `{copy}`.",
        )
    return os.path.realpath(os.path.join(os.path.dirname(path), plain))


def _depends_on_who_opens_it(path: str, header: Header, plain: str) -> ImageError:
    """Return the error for a relative name with a protocol, which QEMU resolves from its own working directory."""
    there = os.path.join(os.path.dirname(path), plain)
    form = header.backing_format or looks_like(there) or ImageFormat.RAW
    return ImageError(
        f"cannot use {path}",
        why=f"its backing file name {header.backing_name!r} depends on the folder in which QEMU is started",
        remedy=f"If {there} is meant, correct the header: {_rebase(path, form, there)}.",
    )
