r"""Replacement of the characters that the reader's encoding lacks.

::

    UTF-8     …東京.img ±1 MiB
    ASCII     ...\u6771\u4eac.img +/-1 MiB
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_encoding: ContextVar[str] = ContextVar("encoding", default="utf-8")

_INSTEAD = {"…": "...", "±": "+/-"}
"""Replacements for the characters outside ASCII that reports themselves use."""


@contextmanager
def written_in(encoding: str) -> Iterator[None]:
    """Limit reports in the block to the characters of an encoding."""
    before = _encoding.set(encoding)
    try:
        yield
    finally:
        _encoding.reset(before)


def writable(text: str) -> str:
    """Return the text, with replacements for the characters that its reader's encoding lacks."""
    if text.isascii() or _has(text):
        return text
    return "".join(letter if _has(letter) else _INSTEAD.get(letter, ascii(letter)[1:-1]) for letter in text)


def _has(text: str) -> bool:
    try:
        text.encode(_encoding.get())
    except UnicodeEncodeError:
        return False
    return True
