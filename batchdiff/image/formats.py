"""The table of image formats: how each is opened, and what is checked before any of its bytes are trusted.

A new format takes a module with its :class:`~batchdiff.image.layer.Layer`, such as :mod:`batchdiff.image.raw`, a
row in this table, a name that a manifest can use, and a magic number (CONTRIBUTING.md, "Adding a format").
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from batchdiff.foreign.header import Outline, ReadAt
from batchdiff.foreign.parallels import inspect_parallels
from batchdiff.foreign.qed import inspect_qed
from batchdiff.foreign.vdi import inspect_vdi
from batchdiff.foreign.vhdx import inspect_vhdx, map_vhdx
from batchdiff.foreign.vmdk import inspect_vmdk
from batchdiff.foreign.vmdk_stream import inspect_vmdk_stream, is_stream_optimized
from batchdiff.foreign.vpc import inspect_vpc
from batchdiff.image.encrypted import open_luks, open_qcow2
from batchdiff.image.exported import ExportedLayer
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Layer
from batchdiff.image.mapped import MappedLayer
from batchdiff.image.raw import RawLayer
from batchdiff.image_source import ImageFormat, ImageSource


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


def _mapped(inspect: Callable[[ReadAt, int], Outline], outside: Outside, *checks: str) -> Format:
    """Return the row of a format that QEMU maps to offsets in the file, once ``inspect`` accepts the header."""

    def opener(source: ImageSource, observer: ReadObserver | None) -> Layer:
        return MappedLayer(source, observer, inspect)

    return Format(opener, (outside, *checks, _OF_THE_MAP))


def _vhdx(source: ImageSource, observer: ReadObserver | None) -> Layer:
    return MappedLayer(source, observer, inspect_vhdx, map_vhdx)


def _vmdk(source: ImageSource, observer: ReadObserver | None) -> Layer:
    """Open an image as its header says; the layer inspects all of the header."""
    with closing(ImageFile(source.path, observer)) as file:
        is_compressed = is_stream_optimized(lambda at, length: file.read_exactly(min(length, file.size), at))
    if is_compressed:
        return ExportedLayer(source, observer, inspect_vmdk_stream)
    return MappedLayer(source, observer, inspect_vmdk)


_OF_THE_MAP = "the map that QEMU, confined to this file, makes of it stays in the file and uses no byte twice"

FORMATS: dict[ImageFormat, Format] = {
    ImageFormat.RAW: Format(
        RawLayer,
        Unchecked("its bytes are the disk: they name no file, and nothing in them is interpreted"),
    ),
    ImageFormat.QCOW2: Format(
        open_qcow2,
        (
            Outside.DECLARED,
            "no unknown incompatible feature, no external data file, not marked corrupt or dirty",
            "if it is encrypted, then with LUKS, whose header is valid and opens in reasonable time",
            "all sizes are within QEMU's limits",
            "header, tables, snapshots and bitmaps are aligned, inside the file and apart from each other",
            "every table entry points into the file, and together they map no more bytes than the file has",
            "while planning: no cluster has two uses that exclude each other, or more uses than its refcount",
            "the header gives the backing file the declared format, or none",
        ),
    ),
    ImageFormat.QED: _mapped(
        inspect_qed,
        Outside.DECLARED,
        "no unknown feature, closed cleanly",
        "its sizes and its L1 table are valid",
        "the backing file has a format that QEMU recognises",
    ),
    ImageFormat.VMDK: Format(
        _vmdk,
        (
            Outside.REFUSED,
            "the file is its only extent: a text descriptor, several extents or a parent are refused",
            "its sizes and grain tables are valid, and its descriptor is where QEMU reads it",
            f"if it is not compressed, {_OF_THE_MAP}",
            "if it is compressed, its footer and all its tables are valid, no grain is used twice, and qemu-nbd,"
            " confined to this file, decompresses it",
        ),
    ),
    ImageFormat.VDI: _mapped(
        inspect_vdi,
        Outside.NOT_POSSIBLE,
        "it has no parent, which would have only a UUID",
        "its sizes and its block map are valid",
    ),
    ImageFormat.VHDX: Format(
        _vhdx,
        (
            Outside.REFUSED,
            "no log to replay; the checksums of its header and region table are right",
            "its regions, metadata, sizes and block table are valid, and blocks are apart from all of them",
            "the map of its blocks stays in the file and uses no byte twice, and QEMU, confined to this file,"
            " finds the same size",
        ),
    ),
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
    ImageFormat.LUKS: Format(
        open_luks,
        (
            Outside.NOT_POSSIBLE,
            "of version 1; its key slots are apart from each other, from the header and from the data",
            "all of them together open in reasonable time",
        ),
    ),
}
"""Every format that a manifest may name."""
