r"""The percentages that QEMU's programs print with ``-p``.

::

    "    (12.34/100%)\r    (13.37/100%)\r ... \n"      printed even to a pipe

Source: QEMU, ``util/qemu-progress.c``.
"""

from __future__ import annotations

import re

_MARK = re.compile(rb" {4}\((\d{1,3}\.\d\d)/100%\)\r")
_BEGUN = re.compile(rb"( {1,4}| {4}\((\d{0,3}|\d{1,3}\.\d{0,2}|\d{1,3}\.\d\d/(1?|10|100|100%|100%\))))$")
"""Matches a possible beginning of a percentage at the end of the output so far."""


class Percentages:
    """A filter that removes percentages from output. ``latest``: 0 to 100; at first 0."""

    def __init__(self) -> None:
        self.latest = 0.0
        self._held = b""

    def without(self, piece: bytes) -> bytes:
        """Return output without percentages; hold back a possible beginning of one."""
        text = self._held + piece
        for found in _MARK.finditer(text):
            self.latest = min(float(found[1]), 100.0)
        text = _MARK.sub(b"", text)
        begun = _BEGUN.search(text)
        cut = len(text) if begun is None else begun.start()
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> bytes:
        """Return the output that is still held back."""
        return self._held
