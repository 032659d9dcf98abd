"""Cutting lists of segments, against the plainest model: what every byte is.

Guards image/layer.py.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchdiff.image.layer import Segment, clip_segments, select_ranges, split_into_windows
from batchdiff.qcow2.entries import Origin


@st.composite
def gapless(draw):
    """Segments as an image gives them, from any start on."""
    at = draw(st.integers(0, 50))
    segments = []
    for number, size in enumerate(draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))):
        origin = draw(st.sampled_from(Origin))
        address = 1000 * (number + 1) if origin in {Origin.FILE, Origin.COMPRESSED} else 0
        segments.append(Segment(at, at + size, origin, draw(st.integers(0, 2)), address))
        at += size
    return segments


def meaning(segments):
    """What each byte is: its origin, layer and address. A compressed cluster's is its descriptor."""
    return {
        offset: (
            segment.origin,
            segment.layer,
            segment.address + (offset - segment.start if segment.origin is Origin.FILE else 0),
        )
        for segment in segments
        for offset in range(segment.start, segment.end)
    }


def assert_gapless(segments, start, end):
    for segment in segments:
        assert segment.start == start < segment.end
        start = segment.end
    assert start == end


@given(gapless(), st.data())
def test_clipped_keeps_the_meaning_of_every_byte(segments, data):
    first, last = segments[0].start, segments[-1].end
    start = data.draw(st.integers(first, last - 1))
    end = data.draw(st.integers(start + 1, last))
    found = clip_segments(segments, start, end)
    assert_gapless(found, start, end)
    assert meaning(found) == {at: what for at, what in meaning(segments).items() if start <= at < end}


@given(gapless(), st.integers(1, 40), st.data())
def test_windowed_is_clipped_at_every_window(segments, step, data):
    start, end = segments[0].start, segments[-1].end
    count = -(-(end - start) // step)
    windows = split_into_windows(segments, start, step, range(count))
    assert windows == {n: clip_segments(segments, start + n * step, start + (n + 1) * step) for n in range(count)}
    assert meaning([segment for window in windows.values() for segment in window]) == meaning(segments)
    numbers = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    assert split_into_windows(segments, start, step, numbers) == {n: windows[n] for n in numbers}


def test_what_needs_no_cut_is_not_copied():
    segments = [Segment(0, 4, Origin.FILE, 0, 512), Segment(4, 8, Origin.ZERO, 0, 0)]
    assert all(a is b for a, b in zip(clip_segments(segments, 0, 8), segments, strict=True))
    assert split_into_windows(segments, 0, 4, range(3)) == {0: [segments[0]], 1: [segments[1]], 2: []}


@given(gapless(), st.lists(st.integers(0, 420), unique=True, max_size=12).map(sorted))
def test_within_is_clipped_to_every_range(segments, edges):
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    assert list(select_ranges(segments, ranges)) == [clip_segments(segments, start, end) for start, end in ranges]
