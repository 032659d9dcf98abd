"""Text from outside, made safe to show: paths, names and reasons may hold anything that a file name may."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Text on one line, with what does not print, or turns text around, escaped: ``\n``, ``\x1b``, ``\u202e``.

    A byte that is no UTF-8 (a surrogate escape) shows as ``\udc80``. A backslash stays as it is: units of
    systemd and device mapper have it in their names, and these shall still be found when they are copied.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
