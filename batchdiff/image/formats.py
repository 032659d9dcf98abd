"""The table of image formats: how an image of each is opened, and what is checked before its bytes are trusted.

See CONTRIBUTING.md, "Adding a format".
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from batchdiff.errors import ImageError
from batchdiff.files.allowed_files import allowed_file
from batchdiff.foreign.header import Outline, ReadAt
from batchdiff.foreign.parallels import inspect_parallels
from batchdiff.foreign.qed import inspect_qed
from batchdiff.foreign.vdi import inspect_vdi
from batchdiff.foreign.vhdx import inspect_vhdx, map_vhdx
from batchdiff.foreign.vmdk import inspect_extent, inspect_vmdk
from batchdiff.foreign.vmdk_descriptor import TEXT_BEGINNING, Descriptor, ExtentKind, read_descriptor
from batchdiff.foreign.vmdk_stream import inspect_vmdk_stream, is_stream_optimized
from batchdiff.foreign.vpc import inspect_vpc
from batchdiff.image.encrypted import open_luks, open_qcow2
from batchdiff.image.exported import ExportedLayer
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Layer
from batchdiff.image.mapped import MappedLayer
from batchdiff.image.raw import FlatExtent, FlatLayer, RawLayer, open_part
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.call_failures import AGAIN
from batchdiff.qcow2.faults import FormatError, require


class Outside(enum.StrEnum):
    """A statement about the other files to which an image can refer."""

    NOT_POSSIBLE = (
        "no outside references are possible: neither batchdiff nor QEMU opens a file that such an image names"
    )
    REFUSED = "an image that refers to another file is refused"
    ALLOWED = (
        "it refers only to files with its data, each of them a regular file beside it or in a folder that the"
        " manifest allows"
    )
    DECLARED = "it refers only to the backing file that the manifest declares, by a plain path"
    DECLARED_AND_ALLOWED = (
        "it refers only to the backing file that the manifest declares, by a plain path, and to one file with its"
        " data, beside it or in a folder that the manifest allows"
    )


class Unchecked(NamedTuple):
    """The reason why it is safe to check nothing."""

    why: str
    outside: Outside = Outside.NOT_POSSIBLE


class Format(NamedTuple):
    """A row of the table.

    ``opener`` opens only the image's own file, the source's secret file, and extents or a data file beside the
    image or in ``allow_folders``; never a backing file. It raises ImageError if one of these files cannot be used.

    ``safety``: a statement about the other files, then phrases for the checks before any byte is trusted.
    """

    opener: Callable[[ImageSource, ReadObserver | None], Layer]
    safety: tuple[Outside | str, ...] | Unchecked


def _mapped(inspect: Callable[[ReadAt, int], Outline], outside: Outside, *checks: str) -> Format:
    def opener(source: ImageSource, observer: ReadObserver | None) -> Layer:
        return MappedLayer(source, observer, inspect)

    return Format(opener, (outside, *checks, _OF_THE_MAP))


def _vhdx(source: ImageSource, observer: ReadObserver | None) -> Layer:
    return MappedLayer(source, observer, inspect_vhdx, map_vhdx)


def _vmdk(source: ImageSource, observer: ReadObserver | None) -> Layer:
    file = ImageFile(source.path, observer)
    try:
        if file.read_at_most(0, len(TEXT_BEGINNING)) == TEXT_BEGINNING:
            return _described(source, file, observer)
        is_compressed = is_stream_optimized(file.read_at_most)
    except FormatError as error:
        file.close()
        raise _refused(source, error) from error
    except BaseException:
        file.close()
        raise
    file.close()
    if is_compressed:
        return ExportedLayer(source, observer, inspect_vmdk_stream)
    return MappedLayer(source, observer, inspect_vmdk)


def _described(source: ImageSource, file: ImageFile, observer: ReadObserver | None) -> Layer:
    """Open an image whose own file is a descriptor of its extents. If an error is raised, ``file`` stays open."""
    descriptor = read_descriptor(file.read_at_most, file.size)
    extents: list[FlatExtent] = []
    grains = 0
    try:
        for each in descriptor.extents:
            path = allowed_file(each.name, source.path, source.allow_folders)
            extents.append(FlatExtent(open_part(path, "extent", source.path, observer), each.offset, each.length))
            is_last = len(extents) == len(descriptor.extents)
            grains += _inspect_extent(extents[-1], descriptor.kind, is_last=is_last)
        if descriptor.kind is ExtentKind.FLAT:
            return FlatLayer(file, extents)

        def inspect(read: ReadAt, size: int) -> Outline:
            changed = "its descriptor changed while it was being read"
            require(
                _same(descriptor, read, size), changed, remedy=f"Stop what is changing it, such as its VM, {AGAIN}"
            )
            return Outline(grains)

        layer = MappedLayer(source, observer, inspect, extents=extents)
    except BaseException:
        for extent in extents:
            extent.file.close()
        raise
    file.close()
    return layer


def _same(descriptor: Descriptor, read: ReadAt, size: int) -> bool:
    return read_descriptor(read, size) == descriptor


def _inspect_extent(extent: FlatExtent, kind: ExtentKind, *, is_last: bool) -> int:
    """Inspect an extent; return the number of its grains, 0 if it is flat."""
    file = extent.file.file
    try:
        if kind is ExtentKind.SPARSE:
            return inspect_extent(file.read_at_most, file.size, extent.length, is_last=is_last)
        end = extent.offset + extent.length
        require(end <= file.size, f"it is truncated to {file.size} bytes, but the descriptor requires {end}")
    except FormatError as error:
        raise FormatError(f"its extent {file.path} cannot be used: {error}", remedy=error.remedy) from error
    return 0


def _refused(source: ImageSource, error: FormatError) -> ImageError:
    return ImageError(
        f"cannot use {source.path} as {source.format}", path=source.path, why=str(error), remedy=error.remedy
    )


_OF_THE_MAP = (
    "the map of its data, made by a QEMU confined to its files, stays within these files and uses no byte twice"
)

FORMATS: dict[ImageFormat, Format] = {
    ImageFormat.RAW: Format(
        RawLayer,
        Unchecked("its bytes are the disk; they name no file, and nothing in them is interpreted"),
    ),
    ImageFormat.QCOW2: Format(
        open_qcow2,
        (
            Outside.DECLARED_AND_ALLOWED,
            "it has no unknown incompatible feature, and is not marked corrupt or dirty",
            "if it has an external data file, that is a regular file with an absolute name, each cluster has the"
            " same offset there as on the disk, and the image is not encrypted",
            "if it is encrypted, it uses LUKS, with a valid header whose key slots open in reasonable time",
            "all sizes are within QEMU's limits",
            "header, tables, snapshots and bitmaps are aligned and inside the file, and do not overlap",
            "all table entries point into the file, and together map no more bytes than the file has",
            "while planning: no cluster has two uses that exclude each other, or more uses than its refcount",
            "the header names the declared format for the backing file or, if it names none, QEMU guesses the"
            " declared one",
        ),
    ),
    ImageFormat.QED: _mapped(
        inspect_qed,
        Outside.DECLARED,
        "it has no unknown feature, and was closed cleanly",
        "its sizes and its L1 table are valid",
        "the backing file has a format that QEMU recognises",
    ),
    ImageFormat.VMDK: Format(
        _vmdk,
        (
            Outside.ALLOWED,
            "it has no parent, and its sizes and grain tables are valid",
            "it is a single file that is its own sole extent, with its descriptor where QEMU reads it, or an"
            " unambiguous text descriptor whose extents are distinct and long enough",
            f"if it is not compressed, {_OF_THE_MAP}",
            "if it is compressed, its footer and all its tables are valid, no grain is used twice, and qemu-nbd,"
            " confined to this file, decompresses it",
        ),
    ),
    ImageFormat.VDI: _mapped(
        inspect_vdi,
        Outside.NOT_POSSIBLE,
        "it has no parent (it could name one only by UUID)",
        "its sizes and its block map are valid",
    ),
    ImageFormat.VHDX: Format(
        _vhdx,
        (
            Outside.REFUSED,
            "it has no log to replay, and the checksums of its header and region table are correct",
            "its sizes are valid, and so are its regions, metadata and block table, which no block overlaps",
            "the map of its blocks stays within the file and uses no byte twice, and QEMU, confined to this file,"
            " finds the same disk size",
        ),
    ),
    ImageFormat.VPC: _mapped(
        inspect_vpc,
        Outside.NOT_POSSIBLE,
        "it has no parent (QEMU would replace a parent's data with zeros)",
        "the footer that QEMU uses has the correct checksum, and the other one, if any, gives the same disk type;"
        " a fixed disk fits into the file, and a dynamic one has a valid block table",
    ),
    ImageFormat.PARALLELS: _mapped(
        inspect_parallels,
        Outside.NOT_POSSIBLE,
        "it was closed cleanly, and has no format extension; its sizes and its cluster map are valid",
    ),
    ImageFormat.LUKS: Format(
        open_luks,
        (
            Outside.NOT_POSSIBLE,
            "it is LUKS version 1, and its key slots do not overlap each other, the header or the data",
            "all its key slots together open in reasonable time",
        ),
    ),
}
"""Every format that a manifest may name."""
