"""What comes from outside cannot take over a terminal, nor pass for something else."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.report.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/web 01.img", "/srv/web 01.img"),
        ("Übung-日本.img", "Übung-日本.img"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td\0", "a\\nb\\rc\\td\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("gmi.\u202egpj", "gmi.\\u202egpj"),
        ("\u2066\u2069\u200b\u200e\ufeff", "\\u2066\\u2069\\u200b\\u200e\\ufeff"),
        ("a\u2028b\u2029c\xa0d", "a\\u2028b\\u2029c\\xa0d"),
        (os.fsdecode(b"caf\xe9\x80"), "caf\\udce9\\udc80"),
        ("\ue000\U000e0041", "\\ue000\\U000e0041"),
        ("systemd\\x2dunit", "systemd\\x2dunit"),
        ("", ""),
    ],
)
def test_what_does_not_print_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_the_result_prints_on_one_line_everywhere(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode() == shown
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
