"""File names: their characters, quoting and length."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Iterable

_LONGEST = 255
"""In bytes, if a filesystem does not report its own limit (Linux ``NAME_MAX``)."""

# Control characters and separators of lines or paragraphs can forge lines in reports and logs.
_UNFIT = frozenset({"Cc", "Zl", "Zp"})

# Characters that change the writing direction can make one name look like another (Unicode Standard Annex #9).
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def unfit(text: str) -> bool:
    """Return whether a name has unacceptable characters.

    Bytes that are not UTF-8 are accepted: Python represents each as one of U+DC80 to U+DCFF (PEP 383).
    """
    return any(_is_unfit(letter) for letter in text)


def why_unfit(text: str) -> str:
    """Describe the first unacceptable character; empty if there is none."""
    letter = next(filter(_is_unfit, text), None)
    if letter is None:
        return ""
    shown = ascii(letter)[1:-1]
    if letter in _TURNING:
        return f"the character {shown}, which changes the direction of the text around it"
    if unicodedata.category(letter) == "Cs":
        return f"{shown}, which is not a character"
    kind = "a line break" if letter in "\n\r\u2028\u2029" else "a control character"
    return f"{kind} ({shown})"


def _is_unfit(letter: str) -> bool:
    if "\ud800" <= letter <= "\udfff":
        return not "\udc80" <= letter <= "\udcff"
    return unicodedata.category(letter) in _UNFIT or letter in _TURNING


def readable(name: str) -> str:
    r"""Escape unprintable characters and bytes that are not UTF-8, as in ``\udce9``."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def shell_word(text: str) -> str:
    r"""Quote a word for a shell.

    Bash, zsh and ksh understand the notation for unprintable words, ``$'caf\351.img'``; dash 0.5.12 does not.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_typed, text))}'"


def shell_option(option: str, value: str) -> str:
    """Return an option and its quoted value, joined by ``=`` if the value begins with a hyphen."""
    return f"{option}{'=' if value.startswith('-') else ' '}{shell_word(value)}"


def shell_path(path: str) -> str:
    """Quote a path for a shell, in a form that no program takes for an option."""
    return shell_word(as_argument(path))


def as_argument(path: str) -> str:
    """Return the path in a form that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _typed(letter: str) -> str:
    if letter in "'\\":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    how = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", how))


def shell_line(words: Iterable[str]) -> str:
    """Quote the words of a shell command."""
    return " ".join(map(shell_word, words))


def check_usable(path: str) -> None:
    """Refuse a path that no file can have, with messages that do not vary between versions of Python.

    :raises ValueError: the path has a null byte or cannot be encoded.
    """
    if "\0" in path:
        raise ValueError("it contains a null byte, which no path can have")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("it contains characters that no path can have in this locale") from None


def is_possible(path: str) -> bool:
    """Return whether :func:`check_usable` accepts a path."""
    try:
        check_usable(path)
    except ValueError:
        return False
    return True


def longest_name(folder: str) -> int:
    """Return the maximum length of a file name in a folder, in bytes."""
    try:
        return max(os.pathconf(folder, "PC_NAME_MAX"), 0) or _LONGEST
    except (OSError, ValueError):
        return _LONGEST
