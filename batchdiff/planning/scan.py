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

import numpy as np

from batchdiff import extents
from batchdiff.errors import ImageError
from batchdiff.extents import Extents
from batchdiff.image.contract import Segment, clipped, windowed
from batchdiff.image.image import Image
from batchdiff.image.opening import open_image
from batchdiff.image.source import ImageSource
from batchdiff.planning.compare import (
    UNIT,
    WINDOW,
    Kinds,
    WindowBuffer,
    kinds_of,
    kinds_of_equal,
)
from batchdiff.planning.digest import RangeDigest
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, align_up, ceil_div

RANGE = 64 * MIB
"""One task of a worker: tens of milliseconds of work, and part of the digest's definition."""

_WINDOWS_IN_CLUSTER = 2 * MIB // WINDOW
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
    """What gathers while a range is scanned: kinds by guest and window, those of an equal guest by window."""

    digest: RangeDigest = field(default_factory=RangeDigest)
    kinds: dict[int, dict[int, Kinds]] = field(default_factory=dict)
    equal: list[Kinds] = field(default_factory=list)


class Scanner:
    """The images of a job, opened once, and the buffers to compare them with."""

    def __init__(self, job: ScanJob) -> None:
        raise_descriptor_limit()
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
            guest: _joined(kinds, findings.equal, start // UNIT)
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
            _load(self._template_buffer, self._template, at, template_segments[index])
            findings.equal.append(kinds_of_equal(self._template_buffer))
            if findings.equal[-1].any():
                findings.digest.add(number, self._template_buffer.view[: self._template.virtual_size - at])
            for guest, segments in guest_segments.items():
                kinds = self._compared(guest, at, segments[index])
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

    def _compared(self, number: int, at: int, segments: list[Segment]) -> Kinds | None:
        """The kinds of a guest's window, or None where it equals the template's or cannot be read."""
        guest = self._guests.get(number)
        if guest is None:
            return None
        try:
            _load(self._guest_buffer, guest, at, segments)
        except ImageError as error:
            self._give_up(number, error)
            return None
        return kinds_of(self._template_buffer, self._guest_buffer)

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


def _load(buffer: WindowBuffer, image: Image, at: int, segments: list[Segment]) -> None:
    """Reads a window, from the first to the last unit that is not known to be zeros.

    :raises ImageError: the image cannot be read.
    """
    there = [segment for segment in segments if segment.origin is not Origin.ZERO]
    if not there:
        buffer.reserve(0, 0)
        return
    first = (there[0].start - at) // UNIT * UNIT
    end = align_up(there[-1].end - at, UNIT)
    image.fill(buffer.reserve(first, end), at + first, clipped(segments, at + first, at + end))


def _joined(kinds: dict[int, Kinds], equal: list[Kinds], first_unit: int) -> Extents:
    """The extents of a range from its windows with differences.

    A window without any is needed all the same where it shares a largest cluster with one that has some.
    """
    clusters = {number // _WINDOWS_IN_CLUSTER for number in kinds}
    needed = [cluster * _WINDOWS_IN_CLUSTER + part for cluster in clusters for part in range(_WINDOWS_IN_CLUSTER)]
    whole = np.zeros((len(equal), WINDOW // UNIT), dtype=np.uint8)
    for number in needed:
        if number < len(equal):
            whole[number] = kinds.get(number, equal[number])
    return extents.from_kinds(whole.reshape(-1), first_unit)


def raise_descriptor_limit() -> None:
    """Lets this process hold as many images open as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
