"""Words from users and files in messages: quoted, on one line, with a known word that is similar."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST_SHOWN = 200

_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off|y|n)$)(?:\./)?[A-Za-z_/][\w./-]*", re.ASCII)
"""Text that YAML reads as text without quotes, wherever it occurs."""

NO_FOLDER_TO_LIST = "Its folder does not exist or cannot be listed."
"""The hint about a path, instead of a similar name, if the names in its folder cannot be listed."""


def show(text: str) -> str:
    """Return text in quotes for a message: on one line, unprintable characters escaped, long text cut."""
    return f'"{escape(text)}"'


def show_whole(text: str) -> str:
    """Return text as :func:`show` does, but never cut: for text that the reader needs whole, such as a path."""
    return f'"{_printable(text)}"'


def escape(text: str) -> str:
    """Return text on one line: unprintable characters escaped, long text cut."""
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    return _printable(text)


def fits_yaml(text: str) -> bool:
    """Return whether YAML can contain a text: not if it has bytes that are not UTF-8, as file names may."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def yaml_text(text: str) -> str:
    """Return a text as YAML, in quotes if it needs them, unprintable characters escaped; see :func:`fits_yaml`."""
    if _PLAIN.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(quoted)}"'


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` if a known word is similar, otherwise an empty string."""
    from difflib import get_close_matches  # noqa: PLC0415  # only if something is wrong

    near = get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {show_whole(near[0])}?" if near else ""
