"""Parsers of option values. They raise ArgumentTypeError if they refuse a value."""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Callable
from typing import TypeVar

from batchdiff.files.filenames import readable
from batchdiff.quoting import show, suggestion
from batchdiff.units import MIB, TIB, parse_size

_MOST_JOBS = 1024

_ALIKE = {
    "remove": "delete",
    "rm": "delete",
    "move": "quarantine",
    "none": "keep",
    "md": "markdown",
    "htm": "html",
}
"""Words that people try, with the values meant."""


class SchemaName(enum.StrEnum):
    """The name of a JSON Schema."""

    MANIFEST = "manifest"
    PLAN = "plan"
    REPORT = "report"
    EVENTS = "events"


Choice = TypeVar("Choice", bound=enum.StrEnum)


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser for the words of an enumeration.

    With the enumeration as the parser, argparse's messages would name the class.
    """

    def chosen(text: str) -> Choice:
        try:
            return choices(text)
        except ValueError:
            known = ", ".join(choices)
            alike = _ALIKE.get(text)
            meant = f"; did you mean {show(alike)}?" if alike in set(choices) else suggestion(text, choices)
            raise argparse.ArgumentTypeError(f"{text!r} is not one of: {known}{meant}") from None

    return chosen


def guest_name(text: str) -> str:
    """Parse a guest's name."""
    # Python represents bytes that are not UTF-8 as surrogates; plans have escapes instead.
    return readable(text) if any("\udc80" <= letter <= "\udcff" for letter in text) else text


def file_to_write(text: str) -> str:
    """Parse the path of a file to write."""
    if text == "-":
        raise argparse.ArgumentTypeError("- does not mean stdout here; for a file of that name, write ./-")
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty")
    return text


def file_to_read(text: str) -> str:
    """Parse the path of a file to read."""
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty")
    return text


def moved_to(text: str) -> str:
    """Make NEW in ``OLD=NEW`` absolute, so that recommended commands work in any folder.

    Mistakes are reported once the plan is known.
    """
    old, equals, new = text.partition("=")
    if not new or os.path.isabs(new):
        return text
    full = os.path.join(os.getcwd(), new)
    # After a symbolic link, ".." is not the folder that the text suggests.
    return f"{old}{equals}{full if '..' in new.split('/') else os.path.normpath(full)}"


def rate(text: str) -> int:
    """Parse a rate, such as ``200MiB`` or ``200M/s``, and return the bytes a second."""
    try:
        found = parse_size(text.removesuffix("/s"))
    except ValueError:
        wanted = "write a whole number and its unit, such as 200MiB, which means 200 MiB a second"
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate; {wanted}") from None
    if not MIB <= found <= TIB:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 1MiB to 1TiB a second")
    return found


def jobs(text: str) -> int:
    """Parse a number of jobs."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs from 1 to {_MOST_JOBS}")
    return int(text)
