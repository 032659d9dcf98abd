"""Whether somebody has asked apply to stop: looked at between the steps and in the long ones, never in the middle.

A signal handler that raises could do so between a rename and its note; this one sets a flag.
"""

from __future__ import annotations

import threading

from batchdiff.errors import StopError


class Stop:
    """A request to stop, which any thread may look at."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Asks for it; may be called by a signal handler."""
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        """Whether somebody did."""
        return self._asked.is_set()

    def check(self) -> None:
        """Ends a step that may be undone.

        :raises StopError: somebody asked for it.
        """
        if self.is_asked:
            raise StopError("interrupted")
