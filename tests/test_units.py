"""Arithmetic on sizes, and the text of sizes and of lists of names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.units import GIB, KIB, MIB, align_up, ceil_div, few, format_size, parse_size

SIZES = {
    0: "0 B",
    1: "1 B",
    1023: "1023 B",
    1024: "1 KiB",
    1536: "1.5 KiB",
    -3 * GIB: "-3 GiB",
    MIB - 1: "1.0 MiB",
    100 * MIB + 51 * KIB: "100.0 MiB",
    1 << 60: "1 EiB",
    5000 << 60: "5000 EiB",
}


@pytest.mark.parametrize(("size", "text"), SIZES.items())
def test_sizes_for_people(size, text):
    assert format_size(size) == text


@given(st.integers(0, 1 << 70), st.integers(1, 1 << 30))
def test_rounding_up(number, granule):
    assert (ceil_div(number, granule) - 1) * granule < number <= ceil_div(number, granule) * granule
    assert align_up(number, granule) == ceil_div(number, granule) * granule


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a", "b", "c", "d"], "a, b and 2 more"),
    ],
)
def test_lists_of_names(names, text):
    assert few(names) == text


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("64k", 64 * KIB), (" 2 MiB ", 2 * MIB), ("1GB", GIB), ("3b", 3)]
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "1.5k", "-1", "1 kk"])
def test_what_is_not_a_size(text):
    with pytest.raises(ValueError, match="is not a size; write, for example, 64KiB, 2MiB or 512"):
        parse_size(text)
