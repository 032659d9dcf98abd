"""Scans one range: what metadata cannot settle is read once from the template and compared with all guests.

::

    range of 64 MiB  | window | window | window | ...
    template           read once for all guests, hashed
    guest 1            read and compared from the first to the last byte that is not settled
    guest 2            ...

Settled without reading: zeros on both sides, and blocks that guest and template share on disk (reflink).
Where the template shares any blocks, its own are read only where a guest needs it, and there is no digest.
Ranges are aligned to the largest cluster, so folding never crosses one.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from batchdiff import extents
from batchdiff.errors import ImageError
from batchdiff.extents import Extents, Kind
from batchdiff.image.contract import Segment, clipped, windowed
from batchdiff.image.digest import RangeDigest
from batchdiff.image.files import read_sequentially
from batchdiff.image.image import Image
from batchdiff.image.opening import open_image
from batchdiff.image.sharing import placed, shared
from batchdiff.image.source import ImageSource
from batchdiff.planning.compare import (
    UNIT,
    WINDOW,
    Kinds,
    WindowBuffer,
    kinds_of,
    kinds_of_equal,
)
from batchdiff.planning.spans import Span, Spans, merged, span_units, spans, without
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, ceil_div

RANGE = 64 * MIB
"""One task of a worker: tens of milliseconds of work, and part of the digest's definition."""

_WINDOWS_IN_CLUSTER = 2 * MIB // WINDOW
"""Windows in the largest cluster."""

_MAPPED_AT_ONCE = 16
"""Guests whose segments are kept for a whole range; with more, smaller stretches are mapped at a time."""


@dataclass(frozen=True, slots=True)
class ScanJob:
    """What is compared: a template with its guests.

    ``sharing``: the template shares blocks with other files, which may be the guests.
    """

    template: ImageSource
    guests: tuple[ImageSource, ...]
    sharing: bool = False


@dataclass(slots=True)
class RangeResult:
    """What a scan of one range found, by guest number; guests without differences there are left out."""

    number: int
    template_digest: bytes | None = None
    differences: dict[int, Extents] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)


@dataclass(slots=True)
class _Findings:
    """What gathers while a range is scanned.

    ``equal``: by window, the kinds of a guest that equals the template there; ``kinds``: those of a guest
    that does not.
    """

    equal: Kinds
    kinds: dict[int, dict[int, Kinds]] = field(default_factory=dict)
    digest: RangeDigest = field(default_factory=RangeDigest)


@dataclass(frozen=True, slots=True)
class _Mapped:
    """An image's segments in a stretch, and by window the span of what must be read there."""

    segments: list[list[Segment]]
    spans: Spans


class Scanner:
    """The images of a job, opened once, and the buffers to compare them with."""

    def __init__(self, job: ScanJob) -> None:
        raise_descriptor_limit()
        self._template = _opened(job.template)
        self._sharing = job.sharing
        self._guests: dict[int, Image] = {}
        self._failures: dict[int, ImageError] = {}
        for number, source in enumerate(job.guests):
            try:
                self._guests[number] = _opened(source)
            except ImageError as error:
                self._failures[number] = error
        self._size = max([self._template.virtual_size, *(g.virtual_size for g in self._guests.values())])
        self._template_buffer = WindowBuffer()
        self._guest_buffer = WindowBuffer()

    def scan(self, number: int) -> RangeResult:
        """The differences in range ``number``.

        :raises ImageError: the template cannot be read.
        """
        start = number * RANGE
        windows = ceil_div(min(RANGE, self._size - start), WINDOW)
        findings = _Findings(np.zeros((windows, WINDOW // UNIT), dtype=np.uint8))
        for first, count in self._stretches(windows):
            self._scan_stretch(start + first * WINDOW, first, count, findings)
        differences = {
            guest: _joined(kinds, findings.equal, start // UNIT)
            for guest, kinds in findings.kinds.items()
            if guest not in self._failures
        }
        digest = None if self._sharing else findings.digest.value()
        return RangeResult(number, digest, differences, dict(self._failures))

    def _stretches(self, windows: int) -> Iterator[tuple[int, int]]:
        step = max(windows // ceil_div(len(self._guests) + 1, _MAPPED_AT_ONCE), 1)
        for first in range(0, windows, step):
            yield first, min(step, windows - first)

    def _scan_stretch(self, begin: int, first: int, count: int, findings: _Findings) -> None:
        """Scans ``count`` windows from offset ``begin`` on, the first of which has the number ``first``."""
        segments = self._template.segments(begin, begin + count * WINDOW)
        template = _mapped(segments, begin, count, [])
        guests = self._map_guests(segments, begin, count)
        if self._sharing:
            _assume_data(findings.equal[first : first + count], template.spans)
            needed = merged(mapped.spans for mapped in guests.values())
        else:
            needed = template.spans
        for index in sorted(needed.keys() | {window for mapped in guests.values() for window in mapped.spans}):
            at, number = begin + index * WINDOW, first + index
            _load(self._template_buffer, self._template, at, template.segments[index], needed.get(index))
            equal = kinds_of_equal(self._template_buffer)
            if not self._sharing:
                findings.equal[number] = equal
                if equal.any():
                    findings.digest.add(number, self._template_buffer.view[: self._template.virtual_size - at])
            for guest, mapped in guests.items():
                if index not in mapped.spans:
                    continue
                span = mapped.spans[index]
                kinds = self._compared(guest, at, mapped.segments[index], span, equal)
                if kinds is not None:
                    whole = findings.equal[number].copy()
                    whole[span_units(span)] = kinds[span_units(span)]
                    findings.kinds.setdefault(guest, {})[number] = whole

    def _map_guests(self, template: list[Segment], begin: int, count: int) -> dict[int, _Mapped]:
        blocks = placed(self._template, template) if self._sharing else []
        mapped = {}
        for number, guest in list(self._guests.items()):
            try:
                segments = guest.segments(begin, begin + count * WINDOW)
                settled = shared(blocks, placed(guest, segments)) if blocks else []
            except ImageError as error:
                self._give_up(number, error)
                continue
            of_template = spans(without(_there(template), settled), begin, WINDOW, UNIT)
            own = _mapped(segments, begin, count, settled)
            mapped[number] = _Mapped(own.segments, merged([of_template, own.spans]))
        return mapped

    def _compared(self, number: int, at: int, segments: list[Segment], span: Span, equal: Kinds) -> Kinds | None:
        """The kinds of a guest's window in a span, or None where it equals the template's or cannot be read."""
        guest = self._guests.get(number)
        if guest is None:
            return None
        try:
            _load(self._guest_buffer, guest, at, segments, span)
        except ImageError as error:
            self._give_up(number, error)
            return None
        return kinds_of(self._template_buffer, self._guest_buffer, equal)

    def _give_up(self, number: int, error: ImageError) -> None:
        self._failures[number] = error
        self._guests.pop(number).close()

    def close(self) -> None:
        """Closes every image."""
        for image in (self._template, *self._guests.values()):
            image.close()


def ranges_with_data(images: list[Image]) -> Iterator[int]:
    """The numbers of the ranges in which any image may have something else than zeros, ascending."""
    following: list[int | None] = [0] * len(images)
    at = 0
    while True:
        for index, image in enumerate(images):
            known = following[index]
            if known is not None and known <= at:
                following[index] = image.next_data(at)
        ahead = [offset for offset in following if offset is not None]
        if not ahead:
            return
        number = max(min(ahead), at) // RANGE
        yield number
        at = (number + 1) * RANGE


def _opened(source: ImageSource) -> Image:
    image = open_image(source)
    for layer in image.layers:
        read_sequentially(layer.fd)
    return image


def _mapped(segments: list[Segment], begin: int, count: int, settled: list[tuple[int, int]]) -> _Mapped:
    pieces = without(_there(segments), settled)
    return _Mapped(windowed(segments, begin, WINDOW, count), spans(pieces, begin, WINDOW, UNIT))


def _there(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in segments if segment.origin is not Origin.ZERO]


def _load(buffer: WindowBuffer, image: Image, at: int, segments: list[Segment], span: Span | None) -> None:
    """Reads a span of the window at offset ``at``; the rest of the buffer becomes zeros.

    :raises ImageError: the image cannot be read.
    """
    if span is None:
        buffer.reserve(0, 0)
        return
    first, end = span
    if not segments or segments[0].start < at + first or segments[-1].end > at + end:
        segments = clipped(segments, at + first, at + end)
    image.fill(buffer.reserve(first, end), at + first, segments)


def _assume_data(equal: Kinds, there: Spans) -> None:
    """Unread parts of the template count as data: at worst a cluster of zeros is written as one of data."""
    for window, span in there.items():
        equal[window, span_units(span)] = Kind.SAME


def _joined(kinds: dict[int, Kinds], equal: Kinds, first_unit: int) -> Extents:
    """The extents of a range from its windows with differences.

    A window without any is needed all the same where it shares a largest cluster with one that has some.
    """
    whole = np.zeros_like(equal)
    for cluster in {number // _WINDOWS_IN_CLUSTER for number in kinds}:
        windows = slice(cluster * _WINDOWS_IN_CLUSTER, (cluster + 1) * _WINDOWS_IN_CLUSTER)
        whole[windows] = equal[windows]
    for number, found in kinds.items():
        whole[number] = found
    return extents.from_kinds(whole.reshape(-1), first_unit)


def raise_descriptor_limit() -> None:
    """Lets this process hold as many images open as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
