import argparse
import os
import shutil

import pytest

from batchdiff.cli.help_layout import help_layout


@pytest.mark.parametrize("terminal", [None, 0, 40, 123])
@pytest.mark.parametrize("given", [None, "", "0", "-7", "wide", "60", "200", " 50 ", "9" * 5000])
def test_help_is_as_wide_as_argparse_makes_it(monkeypatch, given, terminal):
    def size(_descriptor):
        if terminal is None:
            raise OSError("not a terminal")
        return os.terminal_size((terminal, 24))

    monkeypatch.setattr(os, "get_terminal_size", size)
    monkeypatch.delenv("COLUMNS", raising=False)
    if given is not None:
        monkeypatch.setenv("COLUMNS", given)
    assert texts(help_layout) == texts(argparse.RawDescriptionHelpFormatter)


def texts(layout):
    parser = argparse.ArgumentParser("program", formatter_class=layout, epilog="as\n   it is")
    parser.add_argument("--option", help="a help that is much longer than any terminal is wide " * 4)
    return parser.format_help(), parser.format_usage()


def test_the_width_is_not_asked_of_shutil(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: pytest.fail("it was"))
    texts(help_layout)
