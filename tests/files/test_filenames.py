"""Names in the commands that messages advise, as a shell reads them."""

from __future__ import annotations

import os
import subprocess

import pytest

from batchdiff.files.filenames import is_possible, shell_line, shell_option, shell_path, shell_word

NAMES = [b"plain.img", b"it's $HOME.img", b"caf\xe9.img", b"\xe97 'a\\b'.img", b"a\rb\n", "東京".encode()]


@pytest.mark.parametrize("name", NAMES)
def test_bash_reads_the_very_name(name):
    word = shell_word(os.fsdecode(name))
    assert word.isprintable()
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert printed.stdout == name


def test_names_that_a_file_can_have():
    assert all(is_possible(os.fsdecode(name)) for name in NAMES)
    assert not any(is_possible(name) for name in ("a\0b", "\ud800", "a\udfff"))


def test_a_command():
    assert shell_line(["rm", "a b", os.fsdecode(b"caf\xe9")]) == r"rm 'a b' $'caf\351'"


def test_what_begins_with_a_hyphen_is_not_taken_for_an_option():
    assert shell_option("--guest", "web 01") == "--guest 'web 01'"
    assert shell_option("--guest", "-web 01") == "--guest='-web 01'"
    assert [shell_path(path) for path in ("-a b", "a-b", "/-a")] == ["'./-a b'", "a-b", "/-a"]
