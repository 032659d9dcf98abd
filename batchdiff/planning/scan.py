"""Scans one range: every byte of the template is read once and compared with all guests.

::

    range of 64 MiB  | window | window | window | ...
    template           read once, kept for all guests, hashed
    guest 1            holes on both sides are settled unread; else read and compared
    guest 2            ...

Ranges are aligned to the largest cluster, so folding never crosses one.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass, field

from batchdiff import extents
from batchdiff.errors import ImageError
from batchdiff.extents import Extents
from batchdiff.image.contract import Segment, windowed
from batchdiff.image.image import Image
from batchdiff.image.opening import open_image
from batchdiff.image.source import ImageSource
from batchdiff.planning.compare import (
    UNIT,
    WINDOW,
    Flags,
    Kinds,
    TemplateWindow,
    WindowBuffer,
    kinds_of,
    same_kinds,
    template_window,
)
from batchdiff.planning.digest import RangeDigest
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, ceil_div

RANGE = 64 * MIB
"""One task of a worker: tens of milliseconds of work, and part of the digest's definition."""

_PAIR = 2
"""Windows in the largest cluster."""

_MAPPED_AT_ONCE = 16
"""Guests whose segments are kept for a whole range; with more, smaller stretches are mapped at a time."""


@dataclass(frozen=True, slots=True)
class ScanJob:
    """What is compared: a template with its guests."""

    template: ImageSource
    guests: tuple[ImageSource, ...]


@dataclass(slots=True)
class RangeResult:
    """What a scan of one range found, by guest number; guests without differences there are left out."""

    number: int
    template_digest: bytes | None = None
    differences: dict[int, Extents] = field(default_factory=dict)
    failures: dict[int, ImageError] = field(default_factory=dict)


@dataclass(slots=True)
class _Findings:
    """What gathers while a range is scanned: kinds by guest and window, the zeros of the template by window."""

    digest: RangeDigest = field(default_factory=RangeDigest)
    kinds: dict[int, dict[int, Kinds]] = field(default_factory=dict)
    template_zero: list[Flags] = field(default_factory=list)


class Scanner:
    """The images of a job, opened once, and the buffers to compare them with."""

    def __init__(self, job: ScanJob) -> None:
        _raise_descriptor_limit()
        self._template = open_image(job.template)
        self._guests: dict[int, Image] = {}
        self._failures: dict[int, ImageError] = {}
        for number, source in enumerate(job.guests):
            try:
                self._guests[number] = open_image(source)
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
        findings = _Findings()
        for first, count in self._stretches(windows):
            self._scan_stretch(start + first * WINDOW, first, count, findings)
        differences = {
            guest: _joined(kinds, findings.template_zero, start // UNIT)
            for guest, kinds in findings.kinds.items()
            if guest not in self._failures
        }
        return RangeResult(number, findings.digest.value(), differences, dict(self._failures))

    def _stretches(self, windows: int) -> Iterator[tuple[int, int]]:
        step = max(windows // ceil_div(len(self._guests) + 1, _MAPPED_AT_ONCE), 1)
        for first in range(0, windows, step):
            yield first, min(step, windows - first)

    def _scan_stretch(self, begin: int, first: int, count: int, findings: _Findings) -> None:
        """Scans ``count`` windows from offset ``begin`` on, the first of which has the number ``first``."""
        template_segments = _windows(self._template, begin, count)
        guest_segments = self._map_guests(begin, count)
        for index in range(count):
            at, number = begin + index * WINDOW, first + index
            template = self._template_side(at, template_segments[index])
            findings.template_zero.append(template.zero)
            if template.buffer is not None and not template.zero.all():
                findings.digest.add(number, template.buffer.view[: self._template.virtual_size - at])
            for guest, segments in guest_segments.items():
                kinds = self._guest_side(guest, at, segments[index], template)
                if kinds is not None:
                    findings.kinds.setdefault(guest, {})[number] = kinds

    def _map_guests(self, begin: int, count: int) -> dict[int, list[list[Segment]]]:
        mapped = {}
        for number, guest in list(self._guests.items()):
            try:
                mapped[number] = _windows(guest, begin, count)
            except ImageError as error:
                self._give_up(number, error)
        return mapped

    def _template_side(self, at: int, segments: list[Segment]) -> TemplateWindow:
        if _reads_as_zeros(segments):
            return template_window(None, WINDOW // UNIT)
        self._template.fill(self._template_buffer.view, at, segments)
        return template_window(self._template_buffer, WINDOW // UNIT)

    def _guest_side(self, number: int, at: int, segments: list[Segment], template: TemplateWindow) -> Kinds | None:
        if _reads_as_zeros(segments):
            return None if template.buffer is None else kinds_of(template, None)
        guest = self._guests.get(number)
        if guest is None:
            return None
        try:
            guest.fill(self._guest_buffer.view, at, segments)
        except ImageError as error:
            self._give_up(number, error)
            return None
        return kinds_of(template, self._guest_buffer)

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


def _windows(image: Image, begin: int, count: int) -> list[list[Segment]]:
    return windowed(image.segments(begin, begin + count * WINDOW), begin, WINDOW, count)


def _reads_as_zeros(segments: list[Segment]) -> bool:
    return all(segment.origin is Origin.ZERO for segment in segments)


def _joined(kinds: dict[int, Kinds], zeros: list[Flags], first_unit: int) -> Extents:
    """The extents of a range from its windows with differences.

    A window without any is needed all the same where it shares a largest cluster with one that has some.
    """
    needed = {pair * _PAIR + half for pair in {n // _PAIR for n in kinds} for half in range(_PAIR)}
    units = WINDOW // UNIT
    parts = [
        extents.from_kinds(
            kinds[number] if number in kinds else same_kinds(zeros[number]), first_unit + number * units
        )
        for number in sorted(needed)
        if number < len(zeros)
    ]
    return extents.concatenated(parts)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
