"""The backing file that an image names, resolved as QEMU resolves it and compared with the declared one.

::

    low.raw          relative to the image's folder        file:/images/low.raw  like /images/low.raw
    /images/low.raw  absolute                              file:low.raw          in QEMU's working folder: refused
                                                           nbd://..., json:...   refused

Source: QEMU ``block.c``, ``bdrv_get_full_backing_filename()``; ``raw_parse_filename()`` in ``block/file-posix.c``.
"""

from __future__ import annotations

import contextlib
import os
import stat

from batchdiff.errors import ImageError
from batchdiff.files.filenames import shell_line, unfit
from batchdiff.files.identity import is_one_image
from batchdiff.image.files import ReadObserver
from batchdiff.image.format_marks import guesses_of_qemu
from batchdiff.image.layer import Backing
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.device_names import image_path

_FILE = "file:"

_PLAIN_DRIVERS = {"file": stat.S_ISREG, "host_device": stat.S_ISBLK}
"""If a header names one of these drivers of QEMU as the format, the backing file is raw."""


def check_backing(
    image: ImageSource,
    backing: Backing | None,
    declared: ImageSource | None,
    *,
    top: ImageSource,
    observer: ReadObserver | None = None,
) -> None:
    """Check that an image names the declared backing file, or none if none is declared.

    :raises ImageError: QEMU would use a different backing file or format, or the name is not accepted.
    """
    named = resolved_backing(image, backing)
    why = remedy = ""
    if backing is None or named is None:
        if declared is not None:
            why = f"the manifest or plan declares {declared.path} as its backing file, but its header names none"
            remedy = (
                "Correct the `backing` list in the manifest or, if the list is right, restore the image from a"
                " backup."
            )
    elif declared is None:
        why = f"it has the backing file {named}, which the manifest does not declare"
        remedy = f"If that is right, add the file to the `backing` list of {os.path.basename(top.path)}."
    elif not is_one_image(declared.path, named):
        why = f"its header names the backing file {named}, but the manifest or plan declares {declared.path}"
        remedy = _correction(image, backing, declared, named)
    elif _contradicts(backing, declared, observer):
        why = (
            f"QEMU would not read its backing file {named} as {declared.format}, the format that the manifest or"
            " plan declares"
        )
        remedy = _format_correction(image, backing, declared)
    if why:
        raise ImageError(f"cannot use {image.path}", path=image.path, why=why, remedy=remedy)


def _correction(image: ImageSource, backing: Backing, declared: ImageSource, named: str) -> str:
    # If the named file exists, it may be a snapshot, whose content must be kept.
    name = declared.path
    if not os.path.isabs(backing.name):
        # The leading ./ keeps QEMU from taking the part before a colon for a protocol.
        name = f"./{os.path.relpath(declared.path, os.path.dirname(image.path))}"
    unsafe = [] if os.path.lexists(named) else ["-u"]
    command = ["qemu-img", "rebase", *unsafe, "-f", image.format, "-F", declared.format, "-b", name, image.path]
    if not unsafe:
        return (
            f"To use the declared file without changing what a guest sees, run `{shell_line(command)}`."
            " If the `backing` list in the manifest is wrong, correct that instead."
        )
    return (
        f"If {declared.path} is the same file under a new name, correct the header: `{shell_line(command)}`. QEMU"
        " does not check this, and any other file would damage the guest's data. Otherwise bring back"
        f" {named} and, if the `backing` list in the manifest is wrong, correct the list."
    )


def _format_correction(image: ImageSource, backing: Backing, declared: ImageSource) -> str:
    if image.format is ImageFormat.QED and declared.format is not ImageFormat.RAW:
        return (
            "Correct the `backing` list in the manifest: the header of a QED image can name no format but raw, so"
            " the VM sees what QEMU guesses."
        )
    return (
        "Correct the `backing` list in the manifest or, if the list is right, the header:"
        f" {_rebase(image, declared.format, backing.name)}."
    )


def _contradicts(backing: Backing, declared: ImageSource, observer: ReadObserver | None) -> bool:
    named = backing.format
    if named is None:
        # QEMU guesses, and misses formats without a mark in the first bytes, such as a fixed VHD.
        guesses = guesses_of_qemu(declared.path, backing.name, observer)
        return bool(guesses) and guesses != {declared.format}
    if named in _PLAIN_DRIVERS and declared.format is ImageFormat.RAW:
        with contextlib.suppress(OSError):  # opening the file reports the error
            return not _PLAIN_DRIVERS[named](os.stat(declared.path).st_mode)
        return False
    return named != declared.format.value


def _rebase(image: ImageSource, backing_format: str, name: str) -> str:
    command = ["qemu-img", "rebase", "-u", "-f", image.format, "-F", backing_format, "-b", name, image.path]
    return f"`{shell_line(command)}`"


def resolved_backing(image: ImageSource, backing: Backing | None) -> str | None:
    """Return the :func:`image_path` of the backing file that an image names; None if it names none.

    :raises ImageError: the name is not accepted.
    """
    if backing is None:
        return None
    path, name = image.path, backing.name
    plain = name.removeprefix(_FILE)
    if plain != name and not os.path.isabs(plain) and not unfit(plain):
        raise _depends_on_who_opens_it(image, backing, plain)
    if (plain == name and ":" in name.split("/", 1)[0]) or unfit(plain):
        copy = shell_line(["qemu-img", "convert", "-f", image.format, "-O", "qcow2", path, f"{path}.whole"])
        raise ImageError(
            f"cannot use {path}",
            path=path,
            why=f"its backing file name {name!r} is not a plain path, and batchdiff follows only plain paths",
            remedy=f"If you trust the image, make a standalone copy and use that: `{copy}`.",
        )
    return image_path(os.path.join(os.path.dirname(path), plain))


def _depends_on_who_opens_it(image: ImageSource, backing: Backing, plain: str) -> ImageError:
    there = os.path.join(os.path.dirname(image.path), plain)
    # A file that an untrusted header names is not opened, not even to find out its format.
    unknown = "" if backing.format else ", with that file's format in place of FORMAT"
    command = _rebase(image, backing.format or "FORMAT", there)
    return ImageError(
        f"cannot use {image.path}",
        path=image.path,
        why=f"its backing file name {backing.name!r} is relative to the folder in which QEMU is started",
        remedy=f"If {there} is meant, correct the header{unknown}: {command}.",
    )
