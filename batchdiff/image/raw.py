"""Raw files and block devices, and flat images, whose extents are raw files.

::

    disk       0              2G             4G       5G
               | f001, from 0 | f002, from 0 | f003   |
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import CompressedCluster, Losses, Segment, WithOthers
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed
from batchdiff.qcow2.entries import Origin
from batchdiff.quoting import escape, show
from batchdiff.units import SECTOR, align_up


class RawLayer:
    """A raw image. As in QEMU, zeros complete its last sector of 512 bytes."""

    def __init__(self, source: ImageSource, observer: ReadObserver | None = None) -> None:
        self.file = ImageFile(source.path, observer)
        self.path = source.path
        self.fd = self.file.fd
        self._size = self.file.size
        self._has_holes = not self.file.is_block_device
        self.virtual_size = align_up(self._size, SECTOR)

    @property
    def backing(self) -> None:
        """No backing file."""
        return None

    @property
    def other_files(self) -> tuple[str, ...]:
        """No other files."""
        return ()

    @property
    def losses(self) -> Losses:
        """No losses."""
        return Losses()

    def read_tables(self) -> None:
        """Do nothing: there are no tables."""

    def inspect(self, *, refcounts: bool = False) -> None:
        """Do nothing: any content is valid."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`; no segment is ABSENT."""
        found = []
        at = start
        whole = [(start, self._size)] if start < self._size else []
        runs = self.file.data_runs(start, end) if self._has_holes else whole
        for first, hole in runs:
            if first > at:
                found.append(Segment(at, first, Origin.ZERO, 0, 0))
            # SEEK_HOLE also finds the end of the file; the zeros that complete its last sector count as data.
            at = min(self.virtual_size if hole >= self._size else hole, end)
            found.append(Segment(first, at, Origin.FILE, 0, first))
        if at < end:
            found.append(Segment(at, end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        if not self._has_holes:
            return start if start < self._size else None
        return self.file.next_data(start)

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        if segment.address + len(buffer) > self._size:
            there = max(self._size - segment.address, 0)
            buffer[there:] = bytes(len(buffer) - there)
            buffer = buffer[:there]
        self.file.fill(buffer, segment.address)

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise a ValueError: nothing is compressed."""
        raise ValueError(f"nothing is compressed in a raw image: {segment}")

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self.file.fingerprint()

    def close(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        self.file.close()


def open_part(path: str, what: str, image: str, observer: ReadObserver | None) -> RawLayer:
    """Open a file that is part of the image at ``image``; ``what``: the word for such a file in errors.

    :raises ImageError: the file cannot be opened, or is not a regular file.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError as error:
        raise ImageError(
            f"cannot use {image}",
            path=image,
            why=f"its {what} {escape(path)} is missing",
            remedy="Bring the file back. If it was moved or renamed, correct its name in the image.",
        ) from error
    except OSError as error:
        why, remedy = error.strerror, "Correct its name in the image, or the folders in its path."
        if isinstance(error, PermissionError):
            why, remedy = explain(error, Deed.READ, path)
        raise ImageError(
            f"cannot use {image}",
            path=image,
            why=f"its {what} {show(path)} cannot be opened: {why}",
            remedy=remedy,
        ) from error
    # A device is not even opened, because that can have side effects.
    if not stat.S_ISREG(mode):
        raise ImageError(
            f"cannot use {image}",
            path=image,
            why=f"its {what} {escape(path)} is not a regular file",
            remedy="Put a regular file there. If a block device is there, and you trust the image, you can convert"
            " the image to a single file with `qemu-img convert` instead.",
        )
    return RawLayer(ImageSource(path, ImageFormat.RAW), observer)


class FlatExtent(NamedTuple):
    """The next ``length`` bytes of a disk. ``offset``: where a flat extent's bytes begin in its file."""

    file: RawLayer
    offset: int
    length: int


class FlatLayer(WithOthers):
    """An image whose own file only names its extents."""

    def __init__(self, file: ImageFile, extents: list[FlatExtent]) -> None:
        self._file, self._extents = file, extents
        self.path, self.fd = file.path, file.fd
        self.others = tuple(extent.file for extent in extents)
        self.virtual_size = sum(extent.length for extent in extents)

    @property
    def backing(self) -> None:
        """No backing file."""
        return None

    @property
    def losses(self) -> Losses:
        """No losses."""
        return Losses()

    def read_tables(self) -> None:
        """Do nothing: there are no tables."""

    def inspect(self, *, refcounts: bool = False) -> None:
        """Do nothing: opening the image has checked its extents' lengths."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`; no segment is ABSENT."""
        found: list[Segment] = []
        first = 0
        for number, (file, offset, length) in enumerate(self._extents, 1):
            low, high, shift = max(start, first), min(end, first + length), first - offset
            if low < high:
                found += (
                    Segment(part.start + shift, part.end + shift, part.origin, number, part.address)
                    for part in file.parts(low - shift, high - shift)
                )
            first += length
        return found

    def next_data(self, start: int) -> int | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        first = 0
        for file, offset, length in self._extents:
            at = max(start - first, 0) + offset
            found = file.next_data(at) if at < offset + length else None
            if found is not None and found < offset + length:
                return found - offset + first
            first += length
        return None

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Raise a ValueError: all data is in the extents."""
        raise ValueError(f"none of the {len(buffer)} bytes are stored in a descriptor: {segment}")

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise a ValueError: nothing is compressed."""
        raise ValueError(f"nothing is compressed in a raw file: {segment}")

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._file.fingerprint()

    def close(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        self._file.close()
        for other in self.others:
            other.close()
