"""Text from outside, made safe to show: paths, names and reasons may contain anything that a file name may."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text on one line: characters that do not print, or that reverse text, become escapes like ``\n``.

    A byte that is not UTF-8 (a surrogate escape) becomes ``\udc80``. A backslash stays as it is, because names of
    systemd units and device-mapper volumes contain it, and must still work when they are copied.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
