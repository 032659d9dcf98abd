"""Words from users and files, quoted for messages and YAML, and suggestions of similar known words."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST_SHOWN = 200

_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off|y|n)$)(?:\./)?[A-Za-z_/][\w./-]*", re.ASCII)
"""Matches text that YAML reads as text even without quotes, wherever it occurs."""

NO_FOLDER_TO_LIST = "Its folder does not exist or cannot be listed."
"""The remedy for a missing file whose folder cannot be searched for a similar name."""


def show(text: str) -> str:
    """Return text in quotes, as :func:`escape` returns it."""
    return f'"{escape(text)}"'


def show_whole(text: str) -> str:
    """Return text as :func:`show` does, but not cut."""
    return f'"{_printable(text)}"'


def escape(text: str) -> str:
    """Return text on one line: unprintable characters escaped, long text cut."""
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    return _printable(text)


def fits_yaml(text: str) -> bool:
    """Return whether YAML can contain a text; it cannot contain bytes that are not UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def yaml_text(text: str) -> str:
    """Return a text as YAML; see :func:`fits_yaml`."""
    if _PLAIN.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(quoted)}"'


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` or, if no known word is similar, ``""``."""
    from difflib import get_close_matches  # noqa: PLC0415  # only if something is wrong

    near = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {show_whole(near[0])}?" if near else ""
