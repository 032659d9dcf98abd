"""The contract of every image format: locate the bytes of a range, and read them.

::

    guest bytes   0        64k       128k      192k
                  |  FILE   |  ZERO   |  FILE   |     segments of the image, gapless and sorted
                       |                   |
    layers        top.qcow2            backing file       each segment names its layer and the address there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.qcow2.entries import Origin


class Segment(NamedTuple):
    """Guest bytes ``start`` to ``end`` of one origin.

    ``address``: the offset of ``start`` in the layer's file if the origin is FILE; the cluster's descriptor if it
    is COMPRESSED; otherwise 0.

    ``layer`` counts from 0: first the image itself, then its backing chain, then the extents and data files of
    the chain. In the segments that a layer returns, 0 is the layer itself, and its other files count from 1.
    An image never returns ABSENT segments: below the last layer everything reads as zeros.
    """

    start: int
    end: int
    origin: Origin
    layer: int
    address: int


class CompressedCluster(NamedTuple):
    """A compressed cluster as stored in its file. Two that are equal unpack to the same bytes.

    ``data`` may include bytes after the end of the cluster, because its L2 entry counts sectors.
    """

    compression: int
    cluster_size: int
    data: bytes


class Losses(NamedTuple):
    """The numbers of internal snapshots and persistent bitmaps in a file, and whether its disk is encrypted."""

    snapshots: int = 0
    bitmaps: int = 0
    encryption: bool = False


class Backing(NamedTuple):
    """The backing file that an image names: its name as written, and its format if the image gives one."""

    name: str
    format: str | None


class Layer(Protocol):
    """One image of a backing chain, on its own: its file, and its other files if it consists of several.

    Creating a layer reads the headers of these files, and of no others.
    """

    @property
    def path(self) -> str:
        """Absolute path of the file."""

    @property
    def fd(self) -> int:
        """Read-only descriptor of the file."""

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk that a VM would see; a multiple of 512."""

    @property
    def backing(self) -> Backing | None:
        """The backing file that this file names; None if it names none."""

    @property
    def other_files(self) -> tuple[str, ...]:
        """Absolute paths, without symbolic links, of the image's extents or data file; none if it has neither."""

    @property
    def losses(self) -> Losses:
        """The snapshots, bitmaps and encryption of this file, which a conversion would lose."""

    def read_tables(self) -> None:
        """Read the tables that are kept in memory; other methods below may need them.

        :raises ImageError: they are invalid, or cannot be read.
        """

    def inspect(self, *, refcounts: bool = False) -> None:
        """Check all of the file's tables, so that it can be trusted as far as its format allows.

        ``refcounts``: also check the refcounts, which matter only when the file is written to. Only qcow2 has any.

        :raises ImageError: it is damaged or hostile, or QEMU would refuse it.
        """

    def parts(self, start: int, end: int) -> list[Segment]:
        """Return gapless segments of bytes ``start`` to ``end``, within the virtual size; some may be ABSENT."""

    def next_data(self, start: int) -> int | None:
        """Return an offset, ``start`` or later, up to which all bytes are ABSENT or ZERO; None if the rest are.

        It may be lower than necessary, but never skips data.
        """

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of a FILE, COMPRESSED or EXPORTED segment of this layer.

        :raises ImageError: they cannot be read, or are damaged.
        """

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Return the compressed cluster that a COMPRESSED segment of this layer is part of.

        :raises ImageError: it cannot be read.
        """

    def fingerprint(self) -> Fingerprint:
        """Return the file's current fingerprint."""

    def close(self) -> None:
        """Close the file, and its other files."""


@runtime_checkable
class ExportedImage(Protocol):
    """The layer of an image whose data only QEMU can read: QEMU exports it."""

    def start(self) -> None:
        """Start the export now, so that processes forked later share it.

        :raises ImageError: QEMU cannot read the image.
        """


class WithOthers:
    """The base class of layers that can have several files. ``others``: the other files, each as a raw layer."""

    others: tuple[Layer, ...] = ()

    @property
    def other_files(self) -> tuple[str, ...]:
        """See :class:`Layer`."""
        return tuple(layer.path for layer in self.others)


def clip_segments(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Return the parts of gapless segments that are within a range."""
    return [
        segment if start <= segment.start and segment.end <= end else _cut(segment, start, end)
        for segment in segments
        if segment.start < end and start < segment.end
    ]


def _cut(segment: Segment, start: int, end: int) -> Segment:
    begin, stop, origin, layer, address = segment
    if begin < start:
        # A compressed cluster keeps its descriptor, even if the segment starts in the middle of it.
        address += start - begin if origin is Origin.FILE else 0
        begin = start
    return Segment(begin, stop if stop < end else end, origin, layer, address)


def split_into_windows(
    segments: list[Segment], start: int, step: int, numbers: Iterable[int]
) -> dict[int, list[Segment]]:
    """Return windows of ``step`` bytes from ``start`` on, by number; ``numbers``: which to return, ascending."""
    windows = {}
    at = 0
    for number in numbers:
        edge = start + number * step
        end = edge + step
        while at < len(segments) and segments[at].end <= edge:
            at += 1
        window: list[Segment] = []
        while at < len(segments) and (segment := segments[at]).start < end:
            window.append(segment if edge <= segment.start and segment.end <= end else _cut(segment, edge, end))
            if segment.end > end:
                break  # the next window needs the rest of it
            at += 1
        windows[number] = window
    return windows


def select_ranges(segments: list[Segment], ranges: Iterable[tuple[int, int]]) -> Iterator[list[Segment]]:
    """Yield the segments in each range, cut at its edges; the ranges are ascending and disjoint."""
    first = 0
    for start, end in ranges:
        while first < len(segments) and segments[first].end <= start:
            first += 1
        last = first
        while last < len(segments) and segments[last].start < end:
            last += 1
        found = segments[first:last]
        for edge in {0, len(found) - 1} if found else ():
            if found[edge].start < start or end < found[edge].end:
                found[edge] = _cut(found[edge], start, end)
        yield found
