"""The scan of one range: bytes that metadata cannot settle are read and compared with the template's.

::

    range of 64 MiB  | window | window | window | ...
    template           read once for all guests, hashed
    guest 1            read and compared from the first to the last byte that is not settled
    guest 2            ...

Settled without reading: zeros on both sides, and blocks that guest and template share on disk (reflink).
If the template shares any blocks, it is read only where a guest needs it, and there is no digest.
Ranges are aligned to the largest cluster, so folding to clusters never crosses the end of a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from batchdiff.errors import ImageError
from batchdiff.image.equal_compressed import Stored, stored_in, unlike
from batchdiff.image.files import ReadObserver, read_sequentially, settle
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment, clipped
from batchdiff.image.storage.shared_blocks import BlockRuns, Placed, placed, runs_within, shared
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.compare import (
    UNIT,
    WINDOW,
    Flags,
    Kinds,
    WindowBuffer,
    kinds_of,
    kinds_of_equal,
    kinds_of_zeros,
)
from batchdiff.planning.scan.range_kinds import RangeFindings, assume_data, replace_in_span, replaced_units
from batchdiff.planning.scan.reopening import Files, opened_too, reopened
from batchdiff.planning.scan.results import RangeResult
from batchdiff.planning.scan.spans import Span, merged
from batchdiff.planning.scan.windows import MOST_KEPT, Mapped, Stride, mapped, spans_of, without_holes
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, align_up, ceil_div, format_size

RANGE = 64 * MIB
"""Bytes of one task of a worker: tens of milliseconds of work. The digest's definition depends on it."""


@dataclass(frozen=True, slots=True)
class ScanJob:
    """A template and the guests to compare with it, as they were when first opened.

    ``files``: the template's files at that time. ``sharing``: it shares blocks with other files, possibly the
    guests. ``shared``: by guest, its bytes in blocks that the template has at the same offset; None if they are
    not known yet. ``observer`` is called at every read.

    A task is the number of a range (:class:`~batchdiff.planning.scan.executor.Job`).
    """

    template: ImageSource
    files: Files
    guests: tuple[PlannedImage, ...] = ()
    sharing: bool = False
    shared: tuple[BlockRuns | None, ...] = ()
    observer: ReadObserver | None = None

    @contextmanager
    def begin(self) -> Iterator[Callable[[int], RangeResult]]:
        """Open all images, and give the function that scans a range.

        :raises ImageError: the template cannot be opened.
        """
        scanner = Scanner(self)

        def scan(number: int) -> RangeResult:
            result = scanner.scan(number)
            settle(self.observer)
            return result

        try:
            yield scan
        finally:
            scanner.close()

    def describe(self, number: int) -> str:
        """Return what a worker does with a range."""
        start = number * RANGE
        return (
            f"scanning bytes {start} to {start + RANGE} (from {format_size(start)} on) of the template and its"
            " guests"
        )


class _Stretch(NamedTuple):
    """Windows that are scanned together, and the parts of the template and of each guest to be read there.

    ``holes``: by guest, the windows that are settled because it has a hole there.
    """

    windows: int
    template: Mapped
    guests: dict[int, Mapped]
    holes: dict[int, Flags]


class _Window(NamedTuple):
    """The template's window at offset ``at``, whose bytes are in the buffer: its kinds and compressed clusters."""

    at: int
    equal: Kinds
    stored: Stored


class Scanner:
    """The images of a job, opened once, and the buffers to compare them with."""

    def __init__(self, job: ScanJob) -> None:
        self._template = _read_ahead(opened_too(job.template, job.files, job.observer))
        self._sharing = job.sharing
        self._shared = {number: runs for number, runs in enumerate(job.shared) if runs is not None}
        self._guests: dict[int, Image] = {}
        self._failures: dict[int, ImageError] = {}
        for number, guest in enumerate(job.guests):
            try:
                self._guests[number] = _read_ahead(reopened(guest, job.observer))
            except ImageError as error:
                self._failures[number] = error
        self._size = max([self._template.virtual_size, *(g.virtual_size for g in self._guests.values())])
        self._template_buffer = WindowBuffer()
        self._guest_buffer = WindowBuffer()
        self._stride = Stride(RANGE // WINDOW)

    def scan(self, number: int) -> RangeResult:
        """Return the differences in range ``number``.

        :raises ImageError: the template cannot be read.
        """
        start = number * RANGE
        # Guests of another batch may be larger than all images here.
        windows = ceil_div(min(RANGE, max(self._size - start, 0)), WINDOW)
        findings = RangeFindings(np.zeros((windows, WINDOW // UNIT), dtype=np.uint8))
        first = 0
        while first < windows:
            stretch = self._map_stretch(start + first * WINDOW, windows - first)
            findings.note_holes(first, stretch.holes)
            self._scan_stretch(stretch, start + first * WINDOW, first, findings)
            first += stretch.windows
        equal = findings.equal
        differences = findings.differences(self._failures, start // UNIT)
        replaced = {guest: replaced_units(findings.kinds.get(guest, {}), equal) for guest in differences}
        digest = None if self._sharing else findings.digest.value()
        units = int(np.count_nonzero(equal))
        return RangeResult(number, digest, differences, dict(self._failures), units, replaced)

    def _map_stretch(self, begin: int, most: int) -> _Stretch:
        """Return the next windows from offset ``begin``: as many as may be mapped at once, at most ``most``."""
        while True:
            windows = min(self._stride.windows, most)
            segments = self._template.segments(begin, begin + windows * WINDOW)
            template = mapped(segments, begin, spans_of(segments, begin, []))
            guests = self._map_guests(segments, template, begin, windows)
            if guests is not None:
                return _Stretch(windows, template, *guests)

    def _scan_stretch(self, stretch: _Stretch, begin: int, first: int, findings: RangeFindings) -> None:
        """Scan the windows from offset ``begin`` on, the first of which has the number ``first``."""
        template, guests = stretch.template, stretch.guests
        # A template that shares blocks is read only where a guest needs it, any other in full for the digest.
        if self._sharing:
            assume_data(findings.equal[first : first + stretch.windows], template.spans)
            needed = merged(guest.spans for guest in guests.values())
        else:
            needed = template.spans
        for index in sorted(needed.keys() | {window for guest in guests.values() for window in guest.spans}):
            at, number = begin + index * WINDOW, first + index
            # First the template's window. Without a span there, it is all zeros and need not be read.
            span = needed.get(index) if index in template.spans else None
            segments = template.segments.get(index, [])
            if span is None:
                self._template_buffer.reserve(0, 0)
            else:
                room = self._template_buffer.take(*span) if self._sharing else self._template_buffer.reserve(*span)
                _load(room, self._template, at + span[0], segments)
            equal = kinds_of_equal(self._template_buffer)
            window = _Window(at, equal, stored_in(self._template, segments))
            if not self._sharing:
                findings.equal[number] = equal
                if np.count_nonzero(equal):
                    findings.digest.add(number, self._template_buffer.view[: self._template.virtual_size - at])
            # Then that window of each guest. A guest without a span there is settled.
            for guest, own in guests.items():
                if index not in own.spans:
                    continue
                span = own.spans[index]
                kinds = self._compared(guest, window, own.segments.get(index), span)
                if kinds is not None:
                    if self._sharing:  # otherwise, all outside of the span is zeros or equals the template
                        kinds = replace_in_span(findings.equal[number], kinds, span)
                    findings.kinds.setdefault(guest, {})[number] = kinds

    def _map_guests(
        self, segments: list[Segment], template: Mapped, begin: int, windows: int
    ) -> tuple[dict[int, Mapped], dict[int, Flags]] | None:
        """Return the guests' parts to be read, and their holes; None if so many windows need too much memory."""
        end = begin + windows * WINDOW
        # The template's blocks are needed only if the planner did not map all guests before.
        ask = self._sharing and not self._guests.keys() <= self._shared.keys()
        blocks = placed(self._template, segments) if ask else []
        found: dict[int, Mapped] = {}
        holes: dict[int, Flags] = {}
        kept = template.kept
        for number, guest in list(self._guests.items()):
            try:
                own = guest.segments(begin, end)
                settled = self._settled(number, own, blocks, (begin, end))
                of_template = spans_of(segments, begin, settled) if settled else template.spans
                if not self._sharing:
                    of_template, holes[number] = without_holes(of_template, own, begin, windows)
                needed = merged([of_template, spans_of(own, begin, settled)])
            except ImageError as error:
                self._give_up(number, error)
                continue
            there = mapped(own, begin, needed)
            kept += there.kept
            if not self._stride.fits(kept, windows):
                return None
            # Even a single window may have too many segments: then they are looked up again when compared.
            if needed:
                found[number] = there if kept <= MOST_KEPT else Mapped(needed, {})
        self._stride.lengthen_after(kept)
        return found, holes

    def _settled(
        self, number: int, own: list[Segment], blocks: list[Placed], stretch: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Return a guest's bytes that are in blocks which the template has at the same offset."""
        if (runs := self._shared.get(number)) is not None:
            return runs_within(runs, *stretch)
        return shared(blocks, placed(self._guests[number], own)) if blocks else []

    def _compared(self, number: int, window: _Window, segments: list[Segment] | None, span: Span) -> Kinds | None:
        """Return the kinds of a guest's window in a span; None if it equals the template's or cannot be read."""
        guest, at = self._guests.get(number), window.at
        if guest is None:
            return None
        try:
            there = guest.segments(at, at + WINDOW) if segments is None else segments
            if not there or (len(there) == 1 and there[0].origin is Origin.ZERO):
                return kinds_of_zeros(window.equal)
            if window.stored:
                left = unlike(window.stored, guest, there, (at + span[0], at + span[1]))
                if left is None:
                    return None
                span = (left[0] - at) // UNIT * UNIT, align_up(left[1] - at, UNIT)
            _load(self._guest_buffer.take(*span), guest, at + span[0], there)
        except ImageError as error:
            self._give_up(number, error)
            return None
        return kinds_of(self._template_buffer, self._guest_buffer, window.equal)

    def _give_up(self, number: int, error: ImageError) -> None:
        self._failures[number] = error
        self._guests.pop(number).close()

    def close(self) -> None:
        """Close every image."""
        for image in (self._template, *self._guests.values()):
            image.close()


def _read_ahead(image: Image) -> Image:
    for layer in image.layers:
        read_sequentially(layer.fd)
    return image


def _load(room: memoryview, image: Image, start: int, segments: list[Segment]) -> None:
    """Read an image from ``start`` on; ``segments`` cover these bytes, and may extend beyond them.

    :raises ImageError: the image cannot be read.
    """
    end = start + len(room)
    if segments and (segments[0].start < start or segments[-1].end > end):
        segments = clipped(segments, start, end)
    image.fill(room, start, segments)
