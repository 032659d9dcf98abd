"""A request to stop a command.

A signal handler that raised an error might do so between a rename and its record, so the handler only makes this
request. The request has no lock: if the handler interrupted the thread that held the lock, both would wait for
ever.
"""

from __future__ import annotations

from batchdiff.errors import StopError


class Stop:
    """A request to stop, which any thread may make or check."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Make the request."""
        self._asked = True

    @property
    def is_asked(self) -> bool:
        """True once the request has been made."""
        return self._asked

    def check(self) -> None:
        """Raise StopError if the request has been made."""
        if self.is_asked:
            raise StopError("interrupted")
