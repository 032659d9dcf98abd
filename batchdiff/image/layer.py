"""The contract of every image format.

::

    guest bytes   0        64k       128k      192k
                  |  FILE   |  ZERO   |  FILE   |     segments of the image, gapless and sorted
                       |                   |
    layers        top.qcow2            backing file       a FILE segment names a layer and an address in it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.qcow2.entries import Origin


class Segment(NamedTuple):
    """Guest bytes ``start`` to ``end`` (exclusive), all of one origin.

    ``address``: for FILE, the offset of ``start`` in the layer's file; for COMPRESSED, the descriptor in the
    cluster's L2 entry; otherwise 0. ``layer``, meaningless for ZERO and ABSENT: the index in ``Image.layers``; in
    segments that a layer returns, 0 for its own file, and from 1 on for its other files.
    """

    start: int
    end: int
    origin: Origin
    layer: int
    address: int


class CompressedCluster(NamedTuple):
    """A compressed cluster as stored. Equal ones unpack to the same bytes.

    ``data`` may continue past the compressed bytes, because an L2 entry counts sectors.
    """

    compression: int
    cluster_size: int
    data: bytes


class Losses(NamedTuple):
    """The internal snapshots, persistent bitmaps and encryption of a file."""

    snapshots: int = 0
    bitmaps: int = 0
    encryption: bool = False


class Backing(NamedTuple):
    """The backing file that an image names; the name as written."""

    name: str
    format: str | None


class Layer(Protocol):
    """One image of a chain, by itself."""

    @property
    def path(self) -> str:
        """The path of the image's own file."""

    @property
    def fd(self) -> int:
        """A read-only descriptor of the image's own file."""

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk; a multiple of 512."""

    @property
    def backing(self) -> Backing | None:
        """The backing file that the image names."""

    @property
    def other_files(self) -> tuple[str, ...]:
        """The absolute paths, without symbolic links, of the image's extents or data file."""

    @property
    def losses(self) -> Losses:
        """The losses of this layer alone."""

    def read_tables(self) -> None:
        """Read the tables that stay in memory, if they have not been read yet.

        :raises ImageError: they cannot be used.
        """

    def inspect(self, *, refcounts: bool = False) -> None:
        """Check what creating the layer has not checked.

        ``refcounts``: also check refcounts, which matter only when the image is written to.

        :raises ImageError: the image is not sound, or cannot be read.
        """

    def parts(self, start: int, end: int) -> list[Segment]:
        """Return gapless, sorted segments of a range of the disk; some may be ABSENT."""

    def next_data(self, start: int) -> int | None:
        """Return an offset up to which all bytes from ``start`` on are ABSENT or ZERO; None means the disk's end.

        The offset may be lower than necessary.
        """

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Fill ``buffer`` with a segment of the image's own file; no ABSENT or ZERO segment is allowed.

        :raises ImageError: the bytes cannot be read, or are damaged.
        """

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Return the cluster that a COMPRESSED segment of this layer is part of.

        :raises ImageError: the cluster cannot be read.
        """

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the image's own file."""

    def close(self) -> None:
        """Close all files of this layer."""


@runtime_checkable
class ExportedImage(Protocol):
    """A layer whose data only QEMU can read."""

    def start(self) -> None:
        """Start QEMU's export, so that processes forked later share it.

        :raises ImageError: the export cannot be started.
        """


class WithOthers:
    """The base class of layers that can have other files, each a raw layer."""

    others: tuple[Layer, ...] = ()

    @property
    def other_files(self) -> tuple[str, ...]:
        """See :class:`Layer`."""
        return tuple(layer.path for layer in self.others)


def clip_segments(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Return the parts of segments within a range."""
    return [
        segment if start <= segment.start and segment.end <= end else _cut(segment, start, end)
        for segment in segments
        if segment.start < end and start < segment.end
    ]


def _cut(segment: Segment, start: int, end: int) -> Segment:
    begin, stop, origin, layer, address = segment
    if begin < start:
        # A COMPRESSED segment keeps the descriptor, even if it starts in the middle of the cluster.
        address += start - begin if origin is Origin.FILE else 0
        begin = start
    return Segment(begin, stop if stop < end else end, origin, layer, address)


def split_into_windows(
    segments: list[Segment], start: int, step: int, numbers: Iterable[int]
) -> dict[int, list[Segment]]:
    """Return the segments in some windows of ``step`` bytes, by number; window 0 begins at ``start``.

    ``segments`` and ``numbers`` must be ascending.
    """
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
                break  # a later window may need the rest of the segment
            at += 1
        windows[number] = window
    return windows


def select_ranges(segments: list[Segment], ranges: Iterable[tuple[int, int]]) -> Iterator[list[Segment]]:
    """Yield the segments in each range, cut at its edges; segments and ranges must be ascending and disjoint."""
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
