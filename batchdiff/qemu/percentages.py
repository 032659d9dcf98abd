r"""The percentages that QEMU's programs print with ``-p``, removed from the rest of the output.

::

    "    (12.34/100%)\r    (13.37/100%)\r ... \n"      printed at every percent, even to a pipe

Source: QEMU, ``util/qemu-progress.c``.
"""

from __future__ import annotations

import re

_MARK = re.compile(rb" {4}\((\d{1,3}\.\d\d)/100%\)\r")
_BEGUN = re.compile(rb"( {1,4}| {4}\((\d{0,3}|\d{1,3}\.\d{0,2}|\d{1,3}\.\d\d/(1?|10|100|100%|100%\))))$")
"""Matches the end of the output so far if it may be the beginning of a percentage."""


class Percentages:
    """A filter that removes percentages from output. ``latest``: the latest percentage, 0 to 100; at first 0."""

    def __init__(self) -> None:
        self.latest = 0.0
        self._held = b""

    def without(self, piece: bytes) -> bytes:
        """Return the output held back and a piece, without percentages; hold back a possible beginning of one."""
        text = self._held + piece
        for found in _MARK.finditer(text):
            self.latest = min(float(found[1]), 100.0)
        text = _MARK.sub(b"", text)
        begun = _BEGUN.search(text)
        cut = len(text) if begun is None else begun.start()
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> bytes:
        """Return what is still held back when the output has ended."""
        return self._held
