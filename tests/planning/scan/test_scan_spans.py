"""Spans against sets of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from batchdiff.planning.scan.spans import merge_spans, spans_by_window, subtract

WINDOW, UNIT = 16, 4


@st.composite
def sorted_pieces(draw):
    edges = sorted(draw(st.lists(st.integers(0, 80), max_size=12, unique=True)))
    return list(zip(edges[::2], edges[1::2], strict=False))


def covered(pieces):
    return {byte for start, end in pieces for byte in range(start, end)}


@given(sorted_pieces(), sorted_pieces())
def test_without_leaves_the_bytes_that_the_others_do_not_cover(pieces, settled):
    left = subtract(pieces, settled)
    assert covered(left) == covered(pieces) - covered(settled)
    assert left == sorted(left)
    assert all(start < end for start, end in left)


@given(sorted_pieces(), st.integers(0, 3))
def test_a_span_reaches_from_the_first_to_the_last_unit_of_its_window(pieces, shift):
    pieces = [(start + shift * WINDOW, end + shift * WINDOW) for start, end in pieces]
    found = spans_by_window(pieces, shift * WINDOW, WINDOW, UNIT)
    for number in range(6):
        there = {byte - (number + shift) * WINDOW for byte in covered(pieces)} & set(range(WINDOW))
        units = {byte // UNIT for byte in there}
        assert found.get(number) == ((min(units) * UNIT, (max(units) + 1) * UNIT) if units else None)


@given(sorted_pieces(), sorted_pieces())
def test_merged_covers_both(one, other):
    both = merge_spans([spans_by_window(one, 0, WINDOW, UNIT), spans_by_window(other, 0, WINDOW, UNIT)])
    assert both == spans_by_window(sorted(one + other), 0, WINDOW, UNIT)
