"""Text from outside, made safe to show: it may contain anything that a file name may."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text with escapes like ``\n`` or ``\udc80`` for characters that do not print, or that reverse text.

    A backslash stays: names of systemd units and device-mapper volumes may contain one, and must work when copied.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
