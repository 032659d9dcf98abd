"""The values that options take, and error messages that list the choices."""

from __future__ import annotations

import argparse
import enum
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
"""Words that people try, each with the value that they mean."""


class SchemaName(enum.StrEnum):
    """The JSON Schemas that ship with batchdiff."""

    MANIFEST = "manifest"
    PLAN = "plan"
    REPORT = "report"
    EVENTS = "events"


Choice = TypeVar("Choice", bound=enum.StrEnum)


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """Return the parser of an option that takes one of several words.

    argparse's own message for a word that is not among them names the Python class.
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
    """Parse a guest's name: as it is printed, or with the non-UTF-8 bytes of its file's name."""
    # Arguments have these bytes as surrogates. Plans have the readable form of such a name.
    return readable(text) if any("\udc80" <= letter <= "\udcff" for letter in text) else text


def file_to_write(text: str) -> str:
    """Parse the name of a file to write."""
    if text == "-":
        raise argparse.ArgumentTypeError("- does not mean stdout here; for a file of that name, write ./-")
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty")
    return text


def file_to_read(text: str) -> str:
    """Parse the name of a file to read."""
    if not text:
        raise argparse.ArgumentTypeError("the file name is empty")
    return text


def rate(text: str) -> int:
    """Parse bytes a second: ``200MiB``, ``200M/s``."""
    try:
        found = parse_size(text.removesuffix("/s"))
    except ValueError:
        wanted = "write a whole number and its unit, such as 200MiB, which means 200 MiB a second"
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate; {wanted}") from None
    if not MIB <= found <= TIB:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 1MiB to 1TiB a second")
    return found


def jobs(text: str) -> int:
    """Parse the number of worker processes, or of guests to work on at the same time."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs from 1 to {_MOST_JOBS}")
    return int(text)
