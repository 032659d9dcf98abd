"""What a reader has no letter for."""

import pytest

from batchdiff.report.charset import writable, written_in
from batchdiff.report.table import Align, Column, cells, paragraph, table

NAMES = ["plain", "ümläut", "東京サーバ", "emoji-\U0001f600", "e\u0301", "ß" * 60]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "ü…±東\U0001f600"),
        ("ascii", "\\xfc...+/-\\u6771\\U0001f600"),
        ("latin-1", "ü...±\\u6771\\U0001f600"),
        ("cp1252", "ü…±\\u6771\\U0001f600"),
        ("shift_jis", "\\xfc…±東\\U0001f600"),
    ],
)
def test_writable(encoding, expected):
    with written_in(encoding):
        assert writable("ü…±東\U0001f600") == expected
        assert writable(expected) == expected
        writable("".join(map(chr, range(32, 0xD800)))).encode(encoding)
    assert writable("ü…±東\U0001f600") == "ü…±東\U0001f600"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "shift_jis"])
@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_table_is_aligned_and_can_be_written(encoding, width):
    columns = (Column("guest", Align.LEFT), Column("saved"))
    with written_in(encoding):
        lines = table(columns, [(name, "1 ±2") for name in NAMES], width=width)
    shown = [line.encode(encoding).decode(encoding) for line in lines]
    assert len({cells(line) for line in shown}) == 1
    assert all(cells(line) <= max(width, 12 + 2 + 6) for line in shown)


def test_a_paragraph_can_be_written():
    with written_in("ascii"):
        text = paragraph(" ".join(NAMES) + " ±1", width=40)
    assert text.isascii()
    assert "\\xfcml\\xe4ut" in text
