"""Which file names are fit for us: what reports, logs and QEMU can be given; how long they may be."""

from __future__ import annotations

import os
import unicodedata

_LONGEST = 255
"""Bytes, on every filesystem that does not tell (Linux ``NAME_MAX``)."""

# Control characters, lone surrogates (bytes that are no UTF-8), line and paragraph separators: they forge lines
# in reports and logs, and QEMU's ``json:`` names, which are UTF-8, cannot hold them.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp"})

# What turns the direction of writing can make one name look like another (Unicode Standard Annex 9, 2).
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def unfit(text: str) -> bool:
    """Whether a name holds characters that no image's name should."""
    return any(unicodedata.category(letter) in _UNFIT or letter in _TURNING for letter in text)


def check_usable(path: str) -> None:
    """Refuse what no file can be named, in words of our own: Python's are other ones in each version.

    :raises ValueError: it has a null byte, or characters that names cannot have in this locale.
    """
    if "\0" in path:
        raise ValueError("it has a null byte in it, which no path can have")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("it has characters in it that no path can have in this locale") from None


def longest_name(folder: str) -> int:
    """How many bytes a name in a folder may have."""
    try:
        return max(os.pathconf(folder, "PC_NAME_MAX"), 0) or _LONGEST
    except (OSError, ValueError):
        return _LONGEST
