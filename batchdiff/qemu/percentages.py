r"""The percentages that programs of QEMU print with ``-p``, taken out of the rest of their output.

::

    "    (12.34/100%)\r    (13.37/100%)\r ... \n"      printed at every percent, to a pipe as to a terminal

Source: QEMU, ``util/qemu-progress.c``.
"""

from __future__ import annotations

import re

_MARK = re.compile(rb" {4}\((\d{1,3}\.\d\d)/100%\)\r")
_BEGUN = re.compile(rb"( {1,4}| {4}\((\d{0,3}|\d{1,3}\.\d{0,2}|\d{1,3}\.\d\d/(1?|10|100|100%|100%\))))$")
"""The end of what was read so far, if it may be the first part of a percentage."""


class Percentages:
    """Takes percentages out of output, piece by piece. ``latest``: the last one, from 0 to 100."""

    def __init__(self) -> None:
        self.latest = 0.0
        self._held = b""

    def without(self, piece: bytes) -> bytes:
        """Return the output in a piece; what may be the first part of a percentage comes with the next piece."""
        text = self._held + piece
        for found in _MARK.finditer(text):
            self.latest = min(float(found[1]), 100.0)
        text = _MARK.sub(b"", text)
        begun = _BEGUN.search(text)
        cut = len(text) if begun is None else begun.start()
        self._held = text[cut:]
        return text[:cut]

    def rest(self) -> bytes:
        """Return, at the end of the output, what was held back."""
        return self._held
