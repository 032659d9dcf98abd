"""The format in which a file is sampled."""

from __future__ import annotations

import os

from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.image_files import FileToSample
from batchdiff.image.files import ReadObserver
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed

_BY_SUFFIX = {
    ".raw": ImageFormat.RAW,
    ".qcow2": ImageFormat.QCOW2,
    ".qed": ImageFormat.QED,
    ".vmdk": ImageFormat.VMDK,
    ".vdi": ImageFormat.VDI,
    ".vhd": ImageFormat.VPC,
    ".vhdx": ImageFormat.VHDX,
    ".hdd": ImageFormat.PARALLELS,
}
"""``.img`` is absent: both raw and qcow2 images have it."""


def declared_by_name(path: str) -> ImageFormat | None:
    """Return the format that the suffix of a file declares."""
    return _BY_SUFFIX.get(os.path.splitext(path)[1].lower())


def format_of(file: FileToSample, observer: ReadObserver | None = None) -> ImageFormat | Exclusion:
    """Return the format of a file, or why it is left out.

    If ``file.format`` is None, the name must not contradict the content, because a guest can make its raw disk
    look like another format.
    """
    if file.format is not None:
        return file.format
    found, named = looks_like(file.path, observer), declared_by_name(file.path)
    if found is None:
        return Exclusion(file.path, Cause.UNREADABLE, _why_unreadable(file.path))
    if found is ImageFormat.LUKS:
        return Exclusion(
            file.path,
            Cause.DOUBTFUL,
            "it is encrypted (luks). If QEMU encrypts it, list it in a manifest with `format: luks` and"
            " `secret_file: PATH`; if the guest's OS encrypts its own disk, list it with `format: raw`",
        )
    if named not in {None, found} and found is ImageFormat.RAW:
        why = (
            f"it is named like a {named} image, but does not look like one: it is damaged, or its name is wrong;"
            " rename it, or list it in a manifest with its format"
        )
        return Exclusion(file.path, Cause.DOUBTFUL, why)
    if named is not None and named is not found:
        return Exclusion(
            file.path,
            Cause.DOUBTFUL,
            f"it is named like a {named} image, but looks like a {found} image, and a guest could have written"
            " to its own disk the bytes that make it look like one; rename the file, or list it in a manifest with"
            " its format",
        )
    return found


def _why_unreadable(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return reason(error, Deed.READ, path)
    return "it cannot be read"
