"""Text from outside, made safe to show: paths, names and reasons may contain anything that a file name may."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text on one line: characters that do not print, or that reverse text, become escapes like ``\n``.

    A byte that is not valid UTF-8 (a surrogate escape) becomes an escape such as ``\udc80``. A backslash stays as
    it is: names of systemd units and device-mapper volumes may contain one, and must still work when copied.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
