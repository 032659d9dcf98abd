"""batchdiff.quoting: words from users and files as text in YAML."""

import pytest
import yaml

from batchdiff.quoting import fits_yaml, suggestion, yaml_text

PLAIN = ["/images/web01.img", "./a", "a-b_c.img", "_"]
ODD = [" ", "\xa0", "\u2028", "\ufeff", "\ufffe", "\U000e0001", "\n", "\t", "\0", "\x7f", "a\n", "é", "😀"]
MARKS = [
    "a,b",
    "it's",
    'a"b',
    "a\\b",
    "[a]",
    "{a}",
    "a: b",
    "a #b",
    "# a",
    "*.img",
    "&a",
    "!a",
    "- a",
    "?",
    "<<",
    "=",
]
OTHER_TYPES = ["", "yes", "No", "null", "~", "1", "0x1f", "1e3", "12:30", "2024-01-01", ".inf"]


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
@pytest.mark.parametrize("text", [*PLAIN, *ODD, *MARKS, *OTHER_TYPES])
def test_yaml_reads_what_was_quoted(text, loader):
    for where in ("[%s]", "{path: %s, format: raw}", "- %s\n", "path: %s # end"):
        found = yaml.load(where % yaml_text(text), Loader=loader)
        assert text in (found.values() if isinstance(found, dict) else found), where
    assert (yaml_text(text) == text) is (text in PLAIN)
    assert yaml_text(text).isprintable()


def test_a_word_that_is_suggested_is_shown_in_full():
    name = "x" * 250
    assert suggestion(name[1:], [name]) == f'; did you mean "{name}"?'


def test_bytes_that_are_not_utf8():
    assert not fits_yaml("caf\udce9")
    assert fits_yaml("café")
