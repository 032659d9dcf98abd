"""Columns: aligned, as wide as the terminal, names cut in the middle there and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.report.table import Align, Column, cells, cut, paragraph, table

COLUMNS = (Column("guest", Align.LEFT), Column("saved"), Column("verdict", Align.LEFT))


def test_numbers_are_right_aligned_and_words_left():
    assert table(COLUMNS, [("web01", "9 GiB", "convert"), ("b", "127 MiB", "skip")], width=80) == [
        "guest    saved  verdict",
        "web01    9 GiB  convert",
        "b      127 MiB  skip",
    ]


def test_the_lines_of_headings_end_at_the_same_line():
    columns = (Column("guest", Align.LEFT), Column("overlay\nactual"))
    assert table(columns, [("a", "1")], width=80) == ["       overlay", "guest   actual", "a            1"]


def test_a_table_without_rows_has_its_headings():
    assert table(COLUMNS, [], width=80) == ["guest  saved  verdict"]


def test_a_long_name_keeps_its_beginning_and_its_end():
    lines = table(COLUMNS, [("clones/batch-of-2024-number-0017", "9 GiB", "convert")], width=40)
    assert lines[1] == "clones/batc…-number-0017  9 GiB  convert"
    assert max(map(len, lines)) <= 40


def test_a_name_is_whole_in_a_pipe():
    name = "clones/batch-of-2024-number-0017" * 9
    assert table(COLUMNS, [(name, "9 GiB", "convert")], width=None)[1] == f"{name}  9 GiB  convert"


def test_a_name_keeps_some_letters_on_the_narrowest_terminal():
    lines = table(COLUMNS, [("clones/batch-0017", "9 GiB", "convert")], width=1)
    assert lines[1] == "clone…h-0017  9 GiB  convert"


def test_wide_letters_take_two_cells():
    assert cells("日本") == 4
    assert cells("e\u0301") == 1
    assert table(COLUMNS, [("日本", "1", "x"), ("abcde", "1", "x")], width=80)[1:] == [
        "日本       1  x",
        "abcde      1  x",
    ]
    assert cut("日本日本", 4) == "…本"
    assert cut("日本日本", 5) == "日…本"


@pytest.mark.parametrize(("width", "shown"), [(9, "web-00017"), (8, "web…0017"), (2, "…7"), (1, "…"), (0, "…")])
def test_both_ends_are_what_stays(width, shown):
    assert cut("web-00017", width) == shown


names = st.text(st.characters(categories=["L", "M", "N", "P"]), max_size=30)


@given(st.lists(names, min_size=1, max_size=5), st.integers(40, 60))
def test_all_rows_have_the_columns_at_the_same_place(rows, width):
    lines = table(COLUMNS, [(name, "9 GiB", "convert") for name in rows], width=width)
    assert len({cells(line) for line in lines}) == 1
    assert cells(lines[0]) <= width


def test_a_paragraph_never_breaks_a_command():
    command = "`qemu-img rebase -u -f qcow2 -F raw -b '/images of all/t.img' /images/web.qcow2`"
    text = f"its header names another file; if that moved, {command} corrects it"
    lines = paragraph(text, width=40, first="note ", rest="     ").splitlines()
    assert f"     {command}" in lines
    assert " ".join(" ".join(lines).split()) == f"note {text}"


def test_a_size_keeps_its_unit():
    lines = paragraph("word " * 7 + "12.5 MiB and 7 B more", width=41).splitlines()
    assert lines == ["word word word word word word word", "12.5 MiB and 7 B more"]


def test_a_paragraph_counts_cells_not_characters():
    text = " ".join(["仮想"] * 20)
    lines = paragraph(text, width=41).splitlines()
    assert max(map(cells, lines)) == 39
    assert " ".join(lines) == text


def test_a_paragraph_never_breaks_a_path():
    path = "/srv/clones/a-very-long-name-of-a-folder/with-hyphens-in-it/web01.img"
    lines = paragraph(f"it is {path} and more", width=40, first="skip ", rest="     ").splitlines()
    assert any(path in line for line in lines)
    assert [line.startswith("     ") for line in lines] == [False] + [True] * (len(lines) - 1)
