"""The table of image formats: how each is opened, and what is checked before any of its bytes are trusted.

A format that cannot be read yet is a stub: its opener raises the refusal. Making it readable takes a module with
its :class:`~batchdiff.image.layer.Layer`, such as :mod:`batchdiff.image.raw`, and a row in this table.
A format that a manifest cannot name yet also needs a name and a magic number (CONTRIBUTING.md, "Adding a format").
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from batchdiff.errors import ImageError
from batchdiff.files.filenames import shell_line
from batchdiff.foreign.header import ReadAt
from batchdiff.foreign.parallels import inspect_parallels
from batchdiff.foreign.qed import inspect_qed
from batchdiff.foreign.vdi import inspect_vdi
from batchdiff.foreign.vmdk import inspect_vmdk
from batchdiff.foreign.vpc import inspect_vpc
from batchdiff.image.files import ReadObserver
from batchdiff.image.layer import Layer
from batchdiff.image.mapped import MappedLayer
from batchdiff.image.qcow2 import Qcow2Layer
from batchdiff.image.raw import RawLayer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.faults import ENCRYPTED


class Outside(enum.StrEnum):
    """The other files that an image can have read: each format states it, first of all."""

    NOT_POSSIBLE = (
        "no outside references are possible: neither batchdiff nor QEMU opens another file for this format"
    )
    REFUSED = "an image that refers to another file is refused"
    DECLARED = "it refers to no file but the backing file that the manifest declares, by a plain path"


class Unchecked(NamedTuple):
    """The statement that nothing is checked, and why that is safe."""

    why: str
    outside: Outside = Outside.NOT_POSSIBLE


class Format(NamedTuple):
    """One format. ``safety``: the files it refers to, and what is checked before any byte is trusted, as phrases.

    ``opener`` opens one file of a chain by its own format, never by what the file looks like, and opens no other
    file. The observer is called at every read. ``opener`` raises ImageError if the file is missing or invalid.
    """

    opener: Callable[[ImageSource, ReadObserver | None], Layer]
    safety: tuple[Outside | str, ...] | Unchecked


def _not_supported_yet(source: ImageSource, _observer: ReadObserver | None) -> NoReturn:
    copy = shell_line(
        ["qemu-img", "convert", "-f", source.format, "-O", "qcow2", source.path, f"{source.path}.qcow2"]
    )
    *most, last = readable_formats()
    raise ImageError(
        f"cannot use {source.path}",
        why=f"the format {source.format} is not supported yet ({', '.join(most)} and {last} are)",
        remedy=f"Make a qcow2 copy and use that in the manifest: `{copy}`.",
    )


def _encrypted(source: ImageSource, _observer: ReadObserver | None) -> NoReturn:
    raise ImageError(f"cannot use {source.path}", why="it is encrypted", remedy=ENCRYPTED)


def _mapped(inspect: Callable[[ReadAt, int], int], outside: Outside, *checks: str) -> Format:
    """Return the row of a format that QEMU maps to offsets in the file, once ``inspect`` accepts the header."""

    def opener(source: ImageSource, observer: ReadObserver | None) -> Layer:
        return MappedLayer(source, observer, inspect)

    return Format(opener, (outside, *checks, _OF_THE_MAP))


_OF_THE_MAP = "the map that QEMU, confined to this file, makes of it stays in the file and uses no byte twice"

_NOT_OPENED = Unchecked("refused without being opened")

_STUB = Format(_not_supported_yet, _NOT_OPENED)

FORMATS: dict[ImageFormat, Format] = {
    ImageFormat.RAW: Format(
        RawLayer,
        Unchecked("its bytes are the disk: they name no file, and nothing in them is interpreted"),
    ),
    ImageFormat.QCOW2: Format(
        Qcow2Layer,
        (
            Outside.DECLARED,
            "no unknown incompatible feature, no external data file, no encryption, not marked corrupt or dirty",
            "all sizes are within QEMU's limits",
            "header, tables, snapshots and bitmaps are aligned, inside the file and apart from each other",
            "every table entry points into the file, and together they map no more bytes than the file has",
            "while planning: no cluster has two uses that exclude each other, or more uses than its refcount",
            "the header gives the backing file the declared format, or none",
        ),
    ),
    ImageFormat.QED: _mapped(
        inspect_qed,
        Outside.REFUSED,
        "no unknown feature, closed cleanly",
        "its sizes and its L1 table are valid",
    ),
    ImageFormat.VMDK: _mapped(
        inspect_vmdk,
        Outside.REFUSED,
        "the file is its only extent: a text descriptor, several extents or a parent are refused",
        "not compressed; its sizes and grain tables are valid, and its descriptor is where QEMU reads it",
    ),
    ImageFormat.VDI: _mapped(
        inspect_vdi,
        Outside.NOT_POSSIBLE,
        "it has no parent, which would have only a UUID",
        "its sizes and its block map are valid",
    ),
    ImageFormat.VHDX: _STUB,
    ImageFormat.VPC: _mapped(
        inspect_vpc,
        Outside.NOT_POSSIBLE,
        "it has no parent, which QEMU would read as zeros",
        "its footers agree, have the right checksum and fit the file; its block table is valid",
    ),
    ImageFormat.PARALLELS: _mapped(
        inspect_parallels,
        Outside.NOT_POSSIBLE,
        "closed cleanly, without a format extension; its sizes and its cluster map are valid",
    ),
    ImageFormat.LUKS: Format(_encrypted, _NOT_OPENED),
}
"""Every format that a manifest may name."""


def readable_formats() -> list[ImageFormat]:
    """Return the formats that can be read."""
    return [each for each, row in FORMATS.items() if row.safety is not _NOT_OPENED]
