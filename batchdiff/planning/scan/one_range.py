"""The scan of one range: bytes that metadata cannot settle are read and compared with the template's.

::

    range of 64 MiB  | window | window | window | ...
    template           read only once, and hashed
    guest 1            in each window, read and compared from the first to the last byte that is not settled
    guest 2            ...

Settled without reading the guest: zeros on both sides, windows in the guest's holes, bytes that an overlay reads
from the template's files, and blocks shared on disk (reflink). If the template shares any blocks, it is read only
where a guest needs it, and there is no digest.
Ranges are aligned to the largest cluster, so folding never crosses the end of a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from batchdiff.errors import ImageError
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment, clip_segments
from batchdiff.image.storage.shared_blocks import (
    BlockRuns,
    SharedExtent,
    common_ranges,
    runs_within,
    shared_extents,
)
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
from batchdiff.planning.scan.equal_compressed import CompressedClusters, compressed_clusters, range_to_compare
from batchdiff.planning.scan.range_kinds import RangeFindings, assume_data, replace_span, replaced_units
from batchdiff.planning.scan.range_progress import RangeProgress
from batchdiff.planning.scan.results import RangeResult
from batchdiff.planning.scan.spans import Span, Spans, merge_spans
from batchdiff.planning.scan.windows import (
    MOST_KEPT,
    Stride,
    WindowMap,
    leave_out_holes,
    map_windows,
    spans_to_read,
)
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, align_up, ceil_div

RANGE = 64 * MIB
"""Bytes of one task. The definition of the template's digest depends on this size."""


class _Stretch(NamedTuple):
    """Windows that are scanned together, with maps of the bytes to read.

    ``holes``: by guest, whether each window is in a hole of the guest; empty if the template shares blocks.
    """

    windows: int
    template: WindowMap
    guests: dict[int, WindowMap]
    holes: dict[int, Flags]


class _TemplateWindow(NamedTuple):
    """The template's window at offset ``start``; ``equal``: the kinds of an equal guest."""

    start: int
    equal: Kinds
    compressed: CompressedClusters


class Scanner:
    """The open images of a job, and the buffers in which they are compared.

    A guest is known by its index in the job. A window has an index in its range and another in its stretch.
    """

    def __init__(
        self,
        template: Image,
        guests: Sequence[Image | ImageError],
        *,
        sharing: bool,
        shared: Sequence[BlockRuns | None],
        progress: RangeProgress | None = None,
    ) -> None:
        """For the options, see :class:`~batchdiff.planning.scan.scan_job.ScanJob`."""
        self._template = template
        self._sharing = sharing
        self._shared = {guest_index: runs for guest_index, runs in enumerate(shared) if runs is not None}
        self._guests: dict[int, Image] = {}
        self._failures: dict[int, ImageError] = {}
        for guest_index, guest in enumerate(guests):
            if isinstance(guest, ImageError):
                self._failures[guest_index] = guest
            else:
                self._guests[guest_index] = guest
        self._thin = {index for index, guest in self._guests.items() if _is_on(guest, template)}
        self._sizes = [template.virtual_size, *(guest.virtual_size for guest in self._guests.values())]
        self._progress = progress
        self._template_buffer = WindowBuffer()
        self._guest_buffer = WindowBuffer()
        self._stride = Stride(RANGE // WINDOW)

    def scan(self, number: int) -> RangeResult:
        """Scan range ``number``.

        :raises ImageError: the template cannot be read.
        """
        start = number * RANGE
        # Guests of another batch may be larger than all images here.
        windows = ceil_div(min(RANGE, max(max(self._sizes) - start, 0)), WINDOW)
        findings = RangeFindings(np.zeros((windows, WINDOW // UNIT), dtype=np.uint8))
        first_index = 0
        while first_index < windows:
            begin = start + first_index * WINDOW
            stretch = self._map_stretch(begin, windows - first_index)
            findings.note_holes(first_index, stretch.holes)
            self._scan_stretch(stretch, begin, first_index, findings)
            first_index += stretch.windows
        equal = findings.equal
        differences = findings.differences(self._failures, start // UNIT)
        replaced = {guest: replaced_units(findings.kinds.get(guest, {}), equal) for guest in differences}
        digest = None if self._sharing else findings.digest.value()
        units = int(np.count_nonzero(equal))
        return RangeResult(number, digest, differences, dict(self._failures), units, replaced)

    def _map_stretch(self, begin: int, most: int) -> _Stretch:
        while True:
            windows = min(self._stride.windows, most)
            segments = self._template.segments(begin, begin + windows * WINDOW)
            template_map = map_windows(segments, begin, spans_to_read(segments, begin, []))
            guest_maps = self._map_guests(segments, template_map, begin, windows)
            if guest_maps is not None:
                return _Stretch(windows, template_map, *guest_maps)

    def _scan_stretch(self, stretch: _Stretch, begin: int, first_index: int, findings: RangeFindings) -> None:
        """Scan a stretch that begins at offset ``begin``, with window ``first_index`` of the range."""
        # A template that shares blocks is read only where a guest needs it. Any other is read wherever its
        # metadata shows data, for the digest. With a template that shares blocks, a guest gets the assumed kinds
        # outside its own span, even if those bytes were read for other guests: the plan must not depend on how
        # guests are divided into batches.
        if self._sharing:
            assume_data(findings.equal[first_index : first_index + stretch.windows], stretch.template.spans)
            needed = merge_spans(guest_map.spans for guest_map in stretch.guests.values())
        else:
            needed = stretch.template.spans
        of_guests = {index for guest_map in stretch.guests.values() for index in guest_map.spans}
        for index in sorted(needed.keys() | of_guests):
            window_index = first_index + index
            window = self._read_template(stretch.template, index, needed, begin + index * WINDOW)
            if not self._sharing:
                findings.equal[window_index] = window.equal
                if np.count_nonzero(window.equal):
                    data = self._template_buffer.view[: self._template.virtual_size - window.start]
                    findings.digest.add(window_index, data)
            for guest_index, guest_map in stretch.guests.items():
                span = guest_map.spans.get(index)
                if span is None:
                    continue  # settled: nothing to read
                kinds = self._compare(guest_index, window, guest_map.segments.get(index), span)
                if kinds is not None:
                    if self._sharing:  # otherwise, everything outside the span equals the template
                        kinds = replace_span(findings.equal[window_index], kinds, span)
                    findings.kinds.setdefault(guest_index, {})[window_index] = kinds
            if self._progress is not None:
                self._progress.reach(begin // RANGE, window.start, self._sizes)

    def _read_template(self, template_map: WindowMap, index: int, needed: Spans, start: int) -> _TemplateWindow:
        # Without a span in the map, the window is all zeros and need not be read.
        span = needed.get(index) if index in template_map.spans else None
        segments = template_map.segments.get(index, [])
        if span is None:
            self._template_buffer.reserve(0, 0)
        else:
            room = self._template_buffer.take(*span) if self._sharing else self._template_buffer.reserve(*span)
            _load(room, self._template, start + span[0], segments)
        equal = kinds_of_equal(self._template_buffer)
        return _TemplateWindow(start, equal, compressed_clusters(self._template, segments))

    def _map_guests(
        self, template_segments: list[Segment], template_map: WindowMap, begin: int, windows: int
    ) -> tuple[dict[int, WindowMap], dict[int, Flags]] | None:
        """Return the guests' maps and holes; None if they need too much memory."""
        # The template's blocks are needed only if the planner has not mapped all guests.
        ask = self._sharing and not self._guests.keys() <= self._shared.keys()
        template_extents = shared_extents(self._template, template_segments) if ask else []
        guest_maps: dict[int, WindowMap] = {}
        holes: dict[int, Flags] = {}
        kept = template_map.kept
        for guest_index, guest in list(self._guests.items()):
            try:
                segments = guest.segments(begin, begin + windows * WINDOW)
                settled = self._settled(guest_index, segments, template_extents)
                of_template = spans_to_read(template_segments, begin, settled) if settled else template_map.spans
                if not self._sharing:
                    of_template, holes[guest_index] = leave_out_holes(of_template, segments, begin, windows)
                needed = merge_spans([of_template, spans_to_read(segments, begin, settled)])
            except ImageError as error:
                self._give_up(guest_index, error)
                continue
            guest_map = map_windows(segments, begin, needed)
            kept += guest_map.kept
            if not self._stride.fits(kept, windows):
                return None
            # Even a single window may have too many segments. These are looked up again for the comparison.
            if needed:
                guest_maps[guest_index] = guest_map if kept <= MOST_KEPT else WindowMap(needed, {})
        self._stride.lengthen_after(kept)
        return guest_maps, holes

    def _settled(
        self, guest_index: int, segments: list[Segment], template_extents: list[SharedExtent]
    ) -> list[tuple[int, int]]:
        """Return guest bytes in the template's files, or in blocks that the template has at the same offset."""
        if not segments:
            return []
        if guest_index in self._thin:
            # Zeros do not count: a segment of them may join some of the guest's own with some of the template's.
            return [(each.start, each.end) for each in segments if each.layer and each.origin is not Origin.ZERO]
        if (runs := self._shared.get(guest_index)) is not None:
            return runs_within(runs, segments[0].start, segments[-1].end)
        if not template_extents:
            return []
        return common_ranges(template_extents, shared_extents(self._guests[guest_index], segments))

    def _compare(
        self, guest_index: int, window: _TemplateWindow, segments: list[Segment] | None, span: Span
    ) -> Kinds | None:
        """Return the kinds of a guest's window, compared within a span; None if no unit differs, or on failure."""
        guest, start = self._guests.get(guest_index), window.start
        if guest is None:
            return None
        try:
            if segments is None:
                segments = guest.segments(start, start + WINDOW)
            if not segments or (len(segments) == 1 and segments[0].origin is Origin.ZERO):
                return kinds_of_zeros(window.equal)
            if window.compressed:
                left = range_to_compare(window.compressed, guest, segments, start + span[0], start + span[1])
                if left is None:
                    return None
                span = (left[0] - start) // UNIT * UNIT, align_up(left[1] - start, UNIT)
            _load(self._guest_buffer.take(*span), guest, start + span[0], segments)
        except ImageError as error:
            self._give_up(guest_index, error)
            return None
        return kinds_of(self._template_buffer, self._guest_buffer, window.equal)

    def _give_up(self, guest_index: int, error: ImageError) -> None:
        self._failures[guest_index] = error
        self._guests.pop(guest_index).close()

    def close(self) -> None:
        """Close all images that are still open."""
        for image in (self._template, *self._guests.values()):
            image.close()


def _is_on(guest: Image, template: Image) -> bool:
    """Return True if a guest is a single file on top of the template's files.

    The fingerprints of these files must be equal in both images.
    """
    below = guest.source.backing
    same = below == (replace(template.source, backing=()), *template.source.backing)
    return same and guest.fingerprints()[1:] == template.fingerprints()


def _load(room: memoryview, image: Image, start: int, segments: list[Segment]) -> None:
    """Fill ``room`` with an image's bytes from ``start`` on; bytes past ``segments`` become zeros.

    ``segments`` must begin at ``start`` or earlier.
    """
    end = start + len(room)
    if segments and (segments[0].start < start or segments[-1].end > end):
        segments = clip_segments(segments, start, end)
    image.fill(room, start, segments)
