"""Comparing a window with the template's, against the plainest model: slices of bytes, unit by unit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchdiff.extents import Kind
from batchdiff.files.memory import same_bytes
from batchdiff.planning.scan import compare
from batchdiff.planning.scan.compare import UNIT, WINDOW, WindowBuffer, kinds_of, kinds_of_equal, kinds_of_zeros

UNITS = WINDOW // UNIT
ZEROS = bytes(UNIT)
FIRST_WORD = b"\x01" + bytes(UNIT - 1)
LAST_BYTE = bytes(UNIT - 1) + b"\x01"
MIDDLE = bytes(2048) + b"\x80" + bytes(UNIT - 2049)
PATTERN = bytes(range(256)) * 16
PATTERN_ENDS = PATTERN[:-1] + b"\0"
CONTENTS = [ZEROS, ZEROS, PATTERN, PATTERN, FIRST_WORD, LAST_BYTE, MIDDLE, PATTERN_ENDS]

template_buffer, guest_buffer = WindowBuffer(), WindowBuffer()


def fill(buffer, units, first=0):
    """Puts units into a buffer from unit ``first`` on; as in the scanner, a guest's has leftovers beside them."""
    place = buffer.take if buffer is guest_buffer else buffer.reserve
    place(first * UNIT, (first + len(units)) * UNIT)[:] = b"".join(units)
    return buffer


def spread(units, first):
    """The units of the whole window."""
    return [ZEROS] * first + units + [ZEROS] * (UNITS - first - len(units))


def naive(template, guest):
    kinds = [(left != right) + 2 * any(right) for left, right in zip(template, guest, strict=True)]
    return kinds if any(kind & 1 for kind in kinds) else None


def compared(template, guest, template_first=0, guest_first=0):
    """As the scanner does: the guest's span has in it all that either of them has."""
    ends = [
        (first, first + len(units)) for units, first in ((template, template_first), (guest, guest_first)) if units
    ]
    span = slice(min((first for first, _ in ends), default=0), max((end for _, end in ends), default=0))
    padded = spread(guest, guest_first)[span]
    fill(template_buffer, template, template_first)
    fill(guest_buffer, padded, span.start)
    kinds = kinds_of(template_buffer, guest_buffer, kinds_of_equal(template_buffer))
    return None if kinds is None else kinds.tolist()


@st.composite
def pairs_of_windows(draw):
    """Units of the template and of the guest, who has most of them from the template, and where they begin."""
    count = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 33, UNITS]))
    template = draw(st.lists(st.sampled_from(CONTENTS), min_size=count, max_size=count))
    first = draw(st.integers(0, UNITS - count))
    if draw(st.booleans()):
        other = draw(st.lists(st.sampled_from(CONTENTS), max_size=20))
        return template, other, first, draw(st.integers(0, UNITS - len(other)))
    guest = list(template)
    for at in draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else ():
        guest[at] = draw(st.sampled_from(CONTENTS))
    return template, guest, first, first


@settings(max_examples=200)
@given(pairs_of_windows())
def test_kinds_are_those_of_the_model(windows):
    template, guest, template_first, guest_first = windows
    expected = naive(spread(template, template_first), spread(guest, guest_first))
    assert compared(template, guest, template_first, guest_first) == expected


@settings(max_examples=50)
@given(st.lists(st.sampled_from(CONTENTS), max_size=30), st.integers(0, UNITS - 30))
def test_kinds_of_an_equal_window_include_its_zeros(units, first):
    expected = [Kind.SAME if any(unit) else Kind.SAME_ZERO for unit in spread(units, first)]
    assert kinds_of_equal(fill(template_buffer, units, first)).tolist() == expected


@settings(max_examples=50)
@given(st.lists(st.sampled_from(CONTENTS), max_size=30), st.integers(0, UNITS - 30))
def test_kinds_of_zeros_are_those_that_a_comparison_finds(units, first):
    told = kinds_of_zeros(kinds_of_equal(fill(template_buffer, units, first)))
    assert (None if told is None else told.tolist()) == compared(units, [], first)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, UNITS), st.integers(0, UNITS), st.booleans()), min_size=1, max_size=8))
def test_a_reserved_buffer_is_zeros_where_it_is_not_used_whatever_was_taken_before(ranges):
    buffer = WindowBuffer()
    for one, two, only_taken in ranges:
        first, end = sorted((one, two))
        if only_taken:
            buffer.take(first * UNIT, end * UNIT)[:] = b"\xdd" * ((end - first) * UNIT)
            assert buffer.used == (first * UNIT, end * UNIT)
            continue
        buffer.reserve(first * UNIT, end * UNIT)[:] = b"\xee" * ((end - first) * UNIT)
        assert bytes(buffer.view) == b"".join([ZEROS] * first + [b"\xee" * UNIT] * (end - first)).ljust(
            WINDOW, b"\0"
        )


@pytest.mark.parametrize("byte", [0, 1, 7, 8, 9, 2048, UNIT - 8, UNIT - 1])
@pytest.mark.parametrize("unit", [0, 15, 16, UNITS - 1])
def test_one_byte_is_seen_wherever_it_is(unit, byte):
    changed = bytearray(PATTERN)
    changed[byte] ^= 0x10
    template = [PATTERN] * UNITS
    guest = [*template[:unit], bytes(changed), *template[unit + 1 :]]
    assert compared(template, guest) == [Kind.DATA if at == unit else Kind.SAME for at in range(UNITS)]


def test_a_trimmed_cluster_takes_one_call(monkeypatch):
    """One for the window, one for what is left and right of it, one for its zeros."""
    calls = []
    monkeypatch.setattr(compare, "same_bytes", lambda *each: calls.append(each) or same_bytes(*each))
    found = compared([PATTERN] * UNITS, [PATTERN] * 40 + [ZEROS] * 16 + [PATTERN] * (UNITS - 56))
    assert found == [Kind.SAME] * 40 + [Kind.ZERO] * 16 + [Kind.SAME] * (UNITS - 56)
    assert len(calls) == 4


def test_windows_without_differences_have_no_kinds():
    assert compared([PATTERN] * UNITS, [PATTERN] * UNITS) is None
    assert compared([], []) is None
    assert compared([ZEROS] * 7, []) is None


def test_zeros_over_data_are_zero_and_zeros_over_zeros_the_same():
    found = compared([PATTERN, ZEROS, ZEROS, PATTERN], [ZEROS, ZEROS, PATTERN, PATTERN])
    assert found == [Kind.ZERO, Kind.SAME_ZERO, Kind.DATA, Kind.SAME] + [Kind.SAME_ZERO] * (UNITS - 4)
