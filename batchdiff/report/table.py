"""Tables and paragraphs of text.

::

    guest          allocated     saved  verdict
    clone…17.img     2.5 GiB   2.4 GiB  convert
    total            2.5 GiB   2.4 GiB

A width of None stands for a pipe or file: the names in a table stay whole, so that programs can find them.
"""

from __future__ import annotations

import enum
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from batchdiff.frozen import frozen
from batchdiff.report.charset import writable
from batchdiff.report.form import WIDTH

_GAP = "  "
_NARROWEST = 12
"""The least width in cells to which the first column is cut: below it, many guests would look alike."""
_COMMAND = re.compile("`[^`]*`")
_SIZE = re.compile(r"(?<=\d) (?=(?:[KMGTPE]i)?B\b)")
_NO_BREAK, _SECOND_CELL = "\x00", "\x01"
"""Stand for a space at which no line ends, and for the second cell of a wide letter; text to print has neither."""
_ELLIPSIS = "…"


class Align(enum.Enum):
    """The side of a column to which its cells are aligned."""

    LEFT = "left"
    RIGHT = "right"


@frozen
class Column:
    """A column; its heading may have several lines."""

    heading: str
    align: Align = Align.RIGHT


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None) -> list[str]:
    """Return the lines of a table, with the first column cut if they exceed ``width`` cells."""
    parts = [column.heading.split("\n") for column in columns]
    depth = max(map(len, parts))
    headings = [[""] * (depth - len(part)) + part for part in parts]
    body = [*zip(*headings, strict=True), *([writable(cell) for cell in row] for row in rows)]
    widths = [max(map(cells, column)) for column in zip(*body, strict=True)]
    if width is not None:
        room = width - sum(widths[1:]) - len(_GAP) * (len(columns) - 1)
        widths[0] = min(widths[0], max(room, _NARROWEST))
    return [_line(columns, widths, row) for row in body]


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    padded = []
    for column, wide, text in zip(columns, widths, row, strict=True):
        shown = cut(text, wide)
        space = " " * (wide - cells(shown))
        padded.append(shown + space if column.align is Align.LEFT else space + shown)
    return _GAP.join(padded).rstrip()


def cells(text: str) -> int:
    """Return the number of terminal cells that text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return text, cut in the middle if it is too wide: names of clones may differ at either end."""
    if cells(text) <= width:
        return text
    ellipsis = writable(_ELLIPSIS)
    room = max(width - cells(ellipsis), 0)
    end = _fitting(reversed(text), (room + 1) // 2)
    start = _fitting(text, room - cells(end))
    return start + ellipsis + end[::-1]


def _fitting(letters: Iterable[str], room: int) -> str:
    found = ""
    for letter in letters:
        if cells(found) + _cells_of(letter) > room:
            break
        found += letter
    return found


def paragraph(text: str, *, width: int | None, first: str = "", rest: str = "") -> str:
    """Break text into lines between words, so that a path without spaces can be copied.

    ``first`` and ``rest`` are the indents. A size keeps its unit, and a command in backticks stays on one line:
    pasted in pieces, it would be several commands.
    """
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), writable(text))
    whole = _SIZE.sub(_NO_BREAK, whole)
    if not whole.isascii():
        whole = "".join(letter + _SECOND_CELL * (_cells_of(letter) - 1) for letter in whole)
    broken = textwrap.fill(
        whole,
        width=max(WIDTH if width is None else width, 40),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return broken.replace(_NO_BREAK, " ").replace(_SECOND_CELL, "")
