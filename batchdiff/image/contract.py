"""What every image can do, whatever its format: say where its bytes are, and read them.

::

    guest bytes   0        64k       128k      192k
                  |  FILE   |  ZERO   |  FILE   |     segments of the image, gapless and sorted
                       |                   |
    layers        top.qcow2            backing file       each segment names its layer and the address there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from batchdiff.image.fingerprint import Fingerprint
from batchdiff.qcow2.entries import Origin


class Segment(NamedTuple):
    """Guest bytes ``start`` to ``end`` with one origin; ``address`` is that of ``start`` in the layer.

    ``layer`` counts from 0, the image itself, down its chain. An ABSENT segment never leaves an image: below
    the last layer everything reads as zeros.
    """

    start: int
    end: int
    origin: Origin
    layer: int
    address: int


class Packed(NamedTuple):
    """A compressed cluster as it is in its file; two that are equal unpack to the same.

    ``data`` may go on for some bytes that are not the cluster's: its entry counts sectors.
    """

    compression: int
    cluster_size: int
    data: bytes


class Layer(Protocol):
    """One file of a chain, on its own."""

    @property
    def path(self) -> str:
        """Absolute path of the file."""

    @property
    def fd(self) -> int:
        """Its read-only descriptor."""

    @property
    def virtual_size(self) -> int:
        """Bytes that a guest's OS would see; a multiple of 512."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """Gapless segments of bytes ``start`` to ``end``, within the virtual size; some may be ABSENT."""

    def next_data(self, start: int) -> int | None:
        """An offset from ``start`` on before which all is ABSENT or ZERO; None where all that follows is.

        It may be early, never late.
        """

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Fills ``buffer`` with the bytes of a FILE or PACKED segment of this layer."""

    def packed(self, segment: Segment) -> Packed:
        """The compressed cluster that a PACKED segment of this layer is part of.

        :raises ImageError: the disk cannot give it.
        """

    def fingerprint(self) -> Fingerprint:
        """The file's fingerprint now."""

    def close(self) -> None:
        """Closes the file."""


def clipped(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Gapless segments that reach over a range, cut to it."""
    return [
        segment if start <= segment.start and segment.end <= end else _cut(segment, start, end)
        for segment in segments
        if segment.start < end and start < segment.end
    ]


def _cut(segment: Segment, start: int, end: int) -> Segment:
    begin, stop, origin, layer, address = segment
    if begin < start:
        # A compressed cluster keeps its descriptor, wherever in it the segment starts.
        address += start - begin if origin is Origin.FILE else 0
        begin = start
    return Segment(begin, stop if stop < end else end, origin, layer, address)


def windowed(segments: list[Segment], start: int, step: int, numbers: Iterable[int]) -> dict[int, list[Segment]]:
    """The segments of windows of ``step`` bytes, ascending and numbered from ``start`` on, cut at their edges."""
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
                break  # the next window has a part of it, too
            at += 1
        windows[number] = window
    return windows


def within(segments: list[Segment], ranges: Iterable[tuple[int, int]]) -> Iterator[list[Segment]]:
    """Yield the segments of each of some ascending, disjoint ranges, cut at their edges."""
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
