"""QEMU as the oracle: an image must read as QEMU reads it, and say what QEMU says about where its bytes are."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import notation
import numpy as np
import pytest

from batchdiff.errors import ImageError
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.open import inspect, open_image
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.plan import PlannedImage
from batchdiff.qcow2.entries import Origin


def source(path: Path, *below: Path) -> ImageSource:
    """An image with the chain below it; the suffixes say the formats, raw where there is none of qcow2's."""
    return ImageSource(str(path), _format(path), tuple(source(other) for other in below))


def recorded(path: Path) -> PlannedImage:
    """What a plan records of an image."""
    with open_image(source(path)) as image:
        return PlannedImage(image.source, image.virtual_size, image.fingerprints())


def _format(path: Path) -> ImageFormat:
    return ImageFormat.QCOW2 if path.suffix == ".qcow2" else ImageFormat.RAW


def guest_bytes(image: Image, start: int, length: int) -> bytes:
    """What a guest reads there; past the virtual size zeros."""
    return bytes(ReadBuffer(max(length, 1)).load(image, start, length))


def read_all(path: Path, *below: Path) -> bytes:
    """The whole content, after a full inspection."""
    with open_image(source(path, *below)) as image:
        inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


def assert_refused(path: Path, match: str) -> None:
    """Opening, inspecting and reading end soon with an :class:`ImageError` that names the file."""
    with within(5), pytest.raises(ImageError, match=match) as caught:
        read_all(path)
    assert str(path) in str(caught.value)


def assert_reads_like_qemu(path: Path, *below: Path, expected: bytes | None = None) -> None:
    """Content, segments and ``next_data`` of an image, against QEMU; the content also against ``expected``."""
    with open_image(source(path, *below)) as image:
        inspect(image)
        content = guest_bytes(image, 0, image.virtual_size)
        if expected is not None:
            assert_same(content, expected.ljust(image.virtual_size, b"\0"))
        assert_same(content, notation.qemu_content(path, _format(path)))
        assert_segments_like_qemu(image, content, notation.qemu_map(path, _format(path)))
        assert_next_data_never_late(image, content)


def assert_same(found: bytes, expected: bytes) -> None:
    """Equality of contents, with a message that is no longer than a line."""
    assert len(found) == len(expected), f"{len(found)} bytes, not {len(expected)}"
    if found != expected:
        differ = np.flatnonzero(np.frombuffer(found, np.uint8) != np.frombuffer(expected, np.uint8))
        raise AssertionError(f"{len(differ)} bytes differ, the first at {differ[0]}, the last at {differ[-1]}")


def assert_segments_like_qemu(image: Image, content: bytes, ranges: list[dict[str, int]]) -> None:
    """The segments are gapless and sorted, and each is what ``qemu-img map`` says of its bytes."""
    at = 0
    for segment in image.segments(0, image.virtual_size):
        assert segment.start == at < segment.end
        at = segment.end
    assert at == image.virtual_size
    for entry in ranges:
        for segment in image.segments(entry["start"], entry["start"] + entry["length"]):
            _assert_segment(segment, entry, content)


def _assert_segment(segment: Segment, entry: dict[str, int], content: bytes) -> None:
    said = f"{segment} where QEMU says {entry}"
    if entry["zero"]:
        # QEMU also looks whether a data cluster lies in a hole of the file; then its bytes must be zeros.
        zeros = not any(content[segment.start : segment.end])
        assert segment.origin is Origin.ZERO or (entry["data"] and zeros), said
    elif "offset" in entry:
        assert (segment.origin, segment.layer) == (Origin.FILE, entry["depth"]), said
        assert segment.address - segment.start == entry["offset"] - entry["start"], said
    else:
        assert (segment.origin, segment.layer) == (Origin.COMPRESSED, entry["depth"]), said


def assert_next_data_never_late(image: Image, content: bytes) -> None:
    """From everywhere where something may begin or end, nothing but zeros comes before ``next_data``."""
    nonzero = np.flatnonzero(np.frombuffer(content, np.uint8))
    edges = {edge for segment in image.segments(0, len(content)) for edge in (segment.start, segment.end)}
    for start in sorted({0, len(content)} | edges | {edge - 1 for edge in edges} | {edge + 1 for edge in edges}):
        if start >= 0:
            after = nonzero[np.searchsorted(nonzero, start) :]
            found = image.next_data(start)
            if found is None:
                assert len(after) == 0, f"nothing from {start} on, but there is data at {after[0]}"
            else:
                assert start <= found < image.virtual_size
                assert len(after) == 0 or found <= after[0], f"{found} from {start} on is past {after[0]}"


_PATIENCE = 20
"""How many times as long by the clock something may take: others may keep the processors busy."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails what takes more than so much of this process's CPU time, and what waits and would never end."""

    def too_slow(*_: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, seconds),
        signal.SIGALRM: (signal.ITIMER_REAL, seconds * _PATIENCE),
    }
    before = {number: signal.signal(number, too_slow) for number in timers}
    for timer, most in timers.values():
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
