"""The digest of a template's content, computed per range in any order and combined.

::

    window of 512 KiB   xxh3-128 of its bytes (the last one may be short)
    range of 64 MiB     xxh3-128 of (window number in the range, 8 bytes LE; window digest) for each window
    template            xxh3-128 of (virtual size, 8 bytes LE), then (range number, range digest) for each range

Windows and ranges of zeros are left out, so a copy in another format or with other holes has the same digest. A
digest detects changes, not forgeries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import xxhash

from batchdiff.files.memory import page_aligned
from batchdiff.image.image import Image
from batchdiff.image.layer import split_into_windows
from batchdiff.progress import ignore
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB, ceil_div

_PREFIX = "xxh3-128-64m-512k:"
_RANGE, _WINDOW = 64 * MIB, 512 * KIB
_STRETCH = 4 * MIB
"""Bytes whose segments are looked up at once."""

_NUMBER = struct.Struct("<Q")


class RangeDigest:
    """The digest of one range. Add its windows in ascending order."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._empty = True

    def add(self, window: int, data: memoryview) -> None:
        """Add a window that is not all zeros. ``window``: its number in the range."""
        self._hash.update(_NUMBER.pack(window))
        self._hash.update(xxhash.xxh3_128_digest(data))
        self._empty = False

    def value(self) -> bytes | None:
        """Return the digest; None if the range is all zeros."""
        return None if self._empty else self._hash.digest()


def combine_digests(virtual_size: int, ranges: dict[int, bytes]) -> str:
    """Return the labelled digest of a template. ``ranges``: digests by range number, none for ranges of zeros."""
    whole = xxhash.xxh3_128(_NUMBER.pack(virtual_size))
    for number in sorted(ranges):
        whole.update(_NUMBER.pack(number))
        whole.update(ranges[number])
    return _PREFIX + whole.hexdigest()


def content_digest(image: Image, *, check: Callable[[], None], report: Callable[[int], None] = ignore) -> str:
    """Read an image, and return its labelled digest.

    ``check`` may raise an error. ``report`` is called with the number of bytes of the disk that are done, whether
    read or not.

    :raises ImageError: the image cannot be read.
    """
    ranges: dict[int, bytes] = {}
    buffer = page_aligned(_WINDOW)
    at = image.next_data(0)
    while at is not None:
        number = at // _RANGE
        digest = _range_digest(image, number, buffer, check, report)
        if digest is not None:
            ranges[number] = digest
        at = image.next_data((number + 1) * _RANGE)
    return combine_digests(image.virtual_size, ranges)


def _range_digest(
    image: Image, number: int, buffer: memoryview, check: Callable[[], None], report: Callable[[int], None]
) -> bytes | None:
    found = RangeDigest()
    start, end = number * _RANGE, min((number + 1) * _RANGE, image.virtual_size)
    for begin in range(start, end, _STRETCH):
        check()
        report(begin)
        stop = min(begin + _STRETCH, end)
        numbers = range(ceil_div(stop - begin, _WINDOW))
        for window, segments in split_into_windows(image.segments(begin, stop), begin, _WINDOW, numbers).items():
            if all(segment.origin is Origin.ZERO for segment in segments):
                continue
            data = buffer[: segments[-1].end - segments[0].start]
            image.fill(data, segments[0].start, segments)
            if np.frombuffer(data, dtype=np.uint64).any():
                found.add((begin - start) // _WINDOW + window, data)
    return found.value()
