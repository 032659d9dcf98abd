"""An image as its guest sees it: a chain of layers, looked through from the top."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np

from batchdiff.image.contract import Layer, Segment, clipped
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.image.source import ImageSource
from batchdiff.qcow2.entries import Origin


class Image:
    """One image with the chain below it, read-only. ``layers[0]`` is the image itself."""

    def __init__(self, source: ImageSource, layers: list[Layer]) -> None:
        self.source = source
        self.layers = layers

    @property
    def path(self) -> str:
        """Absolute path of the image itself."""
        return self.layers[0].path

    @property
    def virtual_size(self) -> int:
        """Bytes that the guest's OS sees; a multiple of 512."""
        return self.layers[0].virtual_size

    def segments(self, start: int, end: int) -> list[Segment]:
        """Gapless, sorted segments of bytes ``start`` to ``end``, cut at the virtual size; none is ABSENT."""
        found: list[Segment] = []
        for segment in self._resolved(0, start, min(end, self.virtual_size)):
            if found and segment.origin is Origin.ZERO is found[-1].origin:
                found[-1] = found[-1]._replace(end=segment.end)
            else:
                found.append(segment)
        return found

    def _resolved(self, layer: int, start: int, end: int) -> Iterator[Segment]:
        if start >= end:
            return
        parts = self.layers[layer].parts(start, end)
        below: list[Segment] | None = None
        for part in parts:
            if part.origin is not Origin.ABSENT:
                yield part if layer == 0 else part._replace(layer=layer)
                continue
            if below is None:
                below = self._below(layer + 1, part.start, end)
            yield from _within(below, part.start, part.end)

    def _below(self, layer: int, start: int, end: int) -> list[Segment]:
        """What shows through from a layer; past its end, and below the last one, zeros."""
        size = self.layers[layer].virtual_size if layer < len(self.layers) else 0
        found = list(self._resolved(layer, start, min(end, size)))
        if end > max(size, start):
            found.append(Segment(max(size, start), end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """An offset from ``start`` on before which all reads as zeros; None where all that follows does.

        It may be early, never late.
        """
        found, end = [], self.virtual_size
        for layer in self.layers:
            # What a layer holds past the end of one above it never shows, not even through a longer one on top.
            end = min(end, layer.virtual_size)
            if start < end and (offset := layer.next_data(start)) is not None and offset < end:
                found.append(offset)
        return min(found, default=None)

    def fill(self, buffer: memoryview, start: int, segments: list[Segment]) -> None:
        """Reads gapless segments, the first of which begins at guest offset ``start``, into ``buffer``.

        What the segments do not reach in ``buffer`` becomes zeros.

        :raises ImageError: the disk cannot give the bytes, or they are damaged.
        """
        if len(segments) == 1 and segments[0].end - start == len(buffer):
            # By far the most common, and told in a third of the time that slices take.
            self._read(segments[0], buffer)
            return
        done = 0
        for segment in segments:
            self._read(segment, buffer[segment.start - start : segment.end - start])
            done = segment.end - start
        _clear(buffer[done:])

    def _read(self, segment: Segment, view: memoryview) -> None:
        if segment.origin is Origin.ZERO:
            _clear(view)
        else:
            self.layers[segment.layer].read(segment, view)

    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """The fingerprint now of each file of the chain, the image itself first."""
        return tuple(layer.fingerprint() for layer in self.layers)

    def close(self) -> None:
        """Closes every file."""
        for layer in self.layers:
            layer.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _within(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Sorted segments cut to a range, found without walking those before it."""
    first = bisect.bisect_right(segments, start, key=lambda segment: segment.end)
    last = bisect.bisect_left(segments, end, key=lambda segment: segment.start)
    return clipped(segments[first:last], start, end)


def _clear(view: memoryview) -> None:
    """Zeros, without making as many to copy."""
    if view:
        np.frombuffer(view, dtype=np.uint8).fill(0)
