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

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from batchdiff.errors import ImageError
from batchdiff.extents import Extents, Kind
from batchdiff.image.contract import Segment, clipped
from batchdiff.image.files import read_sequentially
from batchdiff.image.image import Image
from batchdiff.image.packing import Stored, stored_in, unlike
from batchdiff.image.sharing import Placed, placed, shared
from batchdiff.image.source import ImageSource
from batchdiff.model.plan import PlannedImage
from batchdiff.planning.compare import (
    UNIT,
    WINDOW,
    Flags,
    Kinds,
    WindowBuffer,
    kinds_of,
    kinds_of_equal,
)
from batchdiff.planning.range_findings import RangeFindings
from batchdiff.planning.mapping import MOST_KEPT, Mapped, Stride, holes_of, mapped, spans_of
from batchdiff.planning.reopening import Files, opened_too, reopened
from batchdiff.planning.spans import Span, Spans, merged, span_units
from batchdiff.units import MIB, align_up, ceil_div

RANGE = 64 * MIB
"""One task of a worker: tens of milliseconds of work, and part of the digest's definition."""


@dataclass(frozen=True, slots=True)
class ScanJob:
    """What is compared: a template with its guests, as they were when they were first opened.

    ``files``: what the template's names led to then. ``sharing``: it shares blocks with other files, which may be
    the guests.
    """

    template: ImageSource
    files: Files
    guests: tuple[PlannedImage, ...]
    sharing: bool = False


@dataclass(slots=True)
class RangeResult:
    """What a scan of one range found, by guest number; guests without differences there are left out.

    ``template_units``: units of the template that are not zeros, as far as it was read; ``replaced``: how many of
    these a guest has other data in.
    """

    number: int
    template_digest: bytes | None = None
    differences: dict[int, Extents] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)
    template_units: int = 0
    replaced: dict[int, int] = field(default_factory=dict)


class _Stretch(NamedTuple):
    """Some windows that are scanned together, and what must be read there of the template and of each guest.

    ``holes``: by guest, the windows in which it has nothing where the template may have something.
    """

    windows: int
    template: Mapped
    guests: dict[int, Mapped]
    holes: dict[int, Flags]


class _Window(NamedTuple):
    """The template's window at offset ``at``, which is in the buffer: its kinds, its compressed clusters."""

    at: int
    equal: Kinds
    stored: Stored


class Scanner:
    """The images of a job, opened once, and the buffers to compare them with."""

    def __init__(self, job: ScanJob) -> None:
        self._template = _read_ahead(opened_too(job.template, job.files))
        self._sharing = job.sharing
        self._guests: dict[int, Image] = {}
        self._failures: dict[int, ImageError] = {}
        for number, guest in enumerate(job.guests):
            try:
                self._guests[number] = _read_ahead(reopened(guest))
            except ImageError as error:
                self._failures[number] = error
        self._size = max([self._template.virtual_size, *(g.virtual_size for g in self._guests.values())])
        self._template_buffer = WindowBuffer()
        self._guest_buffer = WindowBuffer()
        self._stride = Stride(RANGE // WINDOW)

    def scan(self, number: int) -> RangeResult:
        """The differences in range ``number``.

        :raises ImageError: the template cannot be read.
        """
        start = number * RANGE
        # Images that are scanned apart from these may be larger.
        windows = ceil_div(min(RANGE, max(self._size - start, 0)), WINDOW)
        findings = RangeFindings(np.zeros((windows, WINDOW // UNIT), dtype=np.uint8))
        first = 0
        while first < windows:
            stretch = self._map_stretch(start + first * WINDOW, windows - first)
            self._scan_stretch(stretch, start + first * WINDOW, first, findings)
            first += stretch.windows
        sound = (findings.kinds.keys() | findings.holes.keys()) - self._failures.keys()
        differences = {
            guest: found for guest in sorted(sound) if (found := findings.extents(guest, start // UNIT))
        }
        replaced = {guest: findings.replaced(guest) for guest in differences}
        digest = None if self._sharing else findings.digest.value()
        units = int(np.count_nonzero(findings.equal))
        return RangeResult(number, digest, differences, dict(self._failures), units, replaced)

    def _map_stretch(self, begin: int, most: int) -> _Stretch:
        """As many windows from offset ``begin`` on, at most so many, as may be mapped at once."""
        while True:
            windows = min(self._stride.windows, most)
            segments = self._template.segments(begin, begin + windows * WINDOW)
            template = mapped(segments, begin, spans_of(segments, begin, []))
            guests = self._map_guests(segments, template, begin, windows)
            if guests is not None:
                return _Stretch(windows, template, *guests)

    def _scan_stretch(self, stretch: _Stretch, begin: int, first: int, findings: RangeFindings) -> None:
        """Scans the windows from offset ``begin`` on, the first of which has the number ``first``."""
        template, guests = stretch.template, stretch.guests
        for guest, holes in stretch.holes.items():
            findings.note_holes(guest, first, holes)
        hollow = {index for holes in stretch.holes.values() for index in np.flatnonzero(holes).tolist()}
        if self._sharing:
            _assume_data(findings.equal[first : first + stretch.windows], template.spans)
            under_holes = {index: template.spans[index] for index in hollow}
            needed = merged([under_holes, *(guest.spans for guest in guests.values())])
        else:
            needed = template.spans
        for index in sorted(needed.keys() | {window for guest in guests.values() for window in guest.spans}):
            at, number = begin + index * WINDOW, first + index
            # Where the template has nothing but zeros there is nothing to read, whatever a guest needs.
            span = needed.get(index) if index in template.spans else None
            segments = template.segments.get(index, [])
            _load(self._template_buffer, self._template, at, segments, span)
            equal = kinds_of_equal(self._template_buffer)
            window = _Window(at, equal, stored_in(self._template, segments))
            if not self._sharing:
                findings.equal[number] = equal
                if np.count_nonzero(equal):
                    findings.digest.add(number, self._template_buffer.view[: self._template.virtual_size - at])
            if index in hollow:
                findings.note_cleared(number, equal)
            for guest, own in guests.items():
                if index not in own.spans:
                    continue
                span = own.spans[index]
                kinds = self._compared(guest, window, own.segments.get(index), span)
                if kinds is not None:
                    whole = findings.equal[number].copy()
                    whole[span_units(span)] = kinds[span_units(span)]
                    findings.kinds.setdefault(guest, {})[number] = whole

    def _map_guests(
        self, segments: list[Segment], template: Mapped, begin: int, windows: int
    ) -> tuple[dict[int, Mapped], dict[int, Flags]] | None:
        """Guests that have anything to be read there, and holes; None where these are too many windows at once."""
        blocks = placed(self._template, segments) if self._sharing else []
        found: dict[int, Mapped] = {}
        holes: dict[int, Flags] = {}
        kept = template.kept
        for number, guest in list(self._guests.items()):
            try:
                own, hollow = _map_guest(guest, template, segments, blocks, (begin, begin + windows * WINDOW))
            except ImageError as error:
                self._give_up(number, error)
                continue
            kept += own.kept
            if not self._stride.fits(kept, windows):
                return None
            if own.spans:
                found[number] = own if kept <= MOST_KEPT else Mapped(own.spans, {})
            if np.count_nonzero(hollow):
                holes[number] = hollow
        self._stride.lengthen_after(kept)
        return found, holes

    def _compared(self, number: int, window: _Window, segments: list[Segment] | None, span: Span) -> Kinds | None:
        """The kinds of a guest's window in a span, or None where it equals the template's or cannot be read."""
        guest, at = self._guests.get(number), window.at
        if guest is None:
            return None
        try:
            there = guest.segments(at, at + WINDOW) if segments is None else segments
            if window.stored:
                left = unlike(window.stored, guest, there, (at + span[0], at + span[1]))
                if left is None:
                    return None
                span = (left[0] - at) // UNIT * UNIT, align_up(left[1] - at, UNIT)
            _load(self._guest_buffer, guest, at, there, span)
        except ImageError as error:
            self._give_up(number, error)
            return None
        return kinds_of(self._template_buffer, self._guest_buffer, window.equal)

    def _give_up(self, number: int, error: ImageError) -> None:
        self._failures[number] = error
        self._guests.pop(number).close()

    def close(self) -> None:
        """Closes every image."""
        for image in (self._template, *self._guests.values()):
            image.close()


def _read_ahead(image: Image) -> Image:
    for layer in image.layers:
        read_sequentially(layer.fd)
    return image


def _map_guest(
    guest: Image, template: Mapped, segments: list[Segment], blocks: list[Placed], stretch: tuple[int, int]
) -> tuple[Mapped, Flags]:
    """A guest in the stretch from one offset to another, where the template has these segments and blocks.

    The second value: windows with nothing but a hole where the template may have something; they aren't mapped.
    """
    begin, end = stretch
    own = guest.segments(begin, end)
    settled = shared(blocks, placed(guest, own)) if blocks else []
    of_template = spans_of(segments, begin, settled) if settled else template.spans
    hollow = holes_of(own, begin, (end - begin) // WINDOW, of_template)
    if np.count_nonzero(hollow):
        holes = np.flatnonzero(hollow).tolist()
        of_template = {index: of_template[index] for index in of_template.keys() - set(holes)}
    return mapped(own, begin, merged([of_template, spans_of(own, begin, settled)])), hollow


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
