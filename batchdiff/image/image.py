"""An image as a VM sees it: a chain of layers, read from the top down."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.layer import Layer, Segment, WithOthers, clip_segments
from batchdiff.image_source import ImageSource
from batchdiff.qcow2.entries import Origin


class Image:
    """One image with its backing chain, read-only.

    ``layers``: the image itself, its backing chain, then the extents and data files of them all, as raw layers.
    """

    def __init__(self, source: ImageSource, chain: list[Layer]) -> None:
        self.source = _with_other_files(source, chain)
        self._chain = chain
        self.layers = chain[:]
        # The index in ``layers`` of each layer's first other file, less 1: its segments count these files from 1.
        self._shifts: list[int] = []
        for layer in chain:
            self._shifts.append(len(self.layers) - 1)
            self.layers += others_of(layer)

    @property
    def own_files(self) -> list[Layer]:
        """The image's own file, then its other files."""
        return [self._chain[0], *others_of(self._chain[0])]

    @property
    def path(self) -> str:
        """The absolute path of the image's own file."""
        return self.layers[0].path

    @property
    def virtual_size(self) -> int:
        """The bytes of the disk; a multiple of 512."""
        return self.layers[0].virtual_size

    def segments(self, start: int, end: int) -> list[Segment]:
        """Return gapless, sorted segments, none ABSENT, of bytes ``start`` to ``end``, up to the virtual size."""
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
        parts = self._chain[layer].parts(start, end)
        below: list[Segment] | None = None
        for part in parts:
            if part.origin is not Origin.ABSENT:
                number = part.layer + self._shifts[layer] if part.layer else layer
                yield part if number == part.layer else part._replace(layer=number)
                continue
            if below is None:
                # One lookup for all gaps: a lookup for each would read the same tables repeatedly.
                below = self._below(layer + 1, part.start, end)
            yield from _within(below, part.start, part.end)

    def _below(self, layer: int, start: int, end: int) -> list[Segment]:
        """Return the segments from a layer down, with zeros past its end; only zeros if there is no such layer."""
        size = self._chain[layer].virtual_size if layer < len(self._chain) else 0
        found = list(self._resolved(layer, start, min(end, size)))
        if end > max(size, start):
            found.append(Segment(max(size, start), end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """Return an offset, ``start`` or later, up to which all bytes are zeros.

        It may be lower than necessary. None means that only zeros follow.
        """
        found, end = [], self.virtual_size
        for layer in self._chain:
            # A layer hides the data past its end in all layers below it, even if a longer layer is on top.
            end = min(end, layer.virtual_size)
            if start < end and (offset := layer.next_data(start)) is not None and offset < end:
                found.append(offset)
        return min(found, default=None)

    def fill(self, buffer: memoryview, start: int, segments: list[Segment]) -> None:
        """Read gapless segments, which begin at ``start``, into ``buffer``; fill the rest of it with zeros.

        :raises ImageError: the segments cannot be read.
        """
        if len(segments) == 1 and segments[0].end - start == len(buffer):
            # By far the most common case: this takes a third of the time of the code below.
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
        """Return the current fingerprints, in the order of ``layers``."""
        return tuple(layer.fingerprint() for layer in self.layers)

    def close(self) -> None:
        """Close every file."""
        for layer in self._chain:
            layer.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def others_of(layer: Layer) -> tuple[Layer, ...]:
    """Return the other files of a layer, each as a raw layer."""
    return layer.others if isinstance(layer, WithOthers) else ()


def _with_other_files(source: ImageSource, chain: list[Layer]) -> ImageSource:
    own, *below = (
        replace(each, other_files=layer.other_files)
        for each, layer in zip((source, *source.backing), chain, strict=True)
    )
    return replace(own, backing=tuple(below))


def _within(segments: list[Segment], start: int, end: int) -> list[Segment]:
    first = bisect.bisect_right(segments, start, key=lambda segment: segment.end)
    last = bisect.bisect_left(segments, end, key=lambda segment: segment.start)
    return clip_segments(segments[first:last], start, end)


def _clear(view: memoryview) -> None:
    if view:
        np.frombuffer(view, dtype=np.uint8).fill(0)
