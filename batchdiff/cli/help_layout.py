"""How help is laid out: as argparse does it, but for the search for the terminal's width."""

from __future__ import annotations

import argparse
import os

_WIDTH = 80
"""Columns where no terminal shows it."""


def help_layout(prog: str) -> argparse.HelpFormatter:
    """Return what lays out the help of a parser; argparse makes one at every option, to check that.

    Left to itself it asks shutil for the width, which loads every compression that Python has: 2 ms of each start.
    """
    return argparse.RawDescriptionHelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    """Return the width as ``shutil.get_terminal_size`` finds it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(1).columns or _WIDTH
    except OSError:
        return _WIDTH
