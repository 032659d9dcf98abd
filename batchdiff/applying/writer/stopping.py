"""A request to stop as a condition rather than an error, for code that runs external programs."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.errors import StopError


def stops(check: Callable[[], None]) -> Callable[[], bool]:
    """Return a function that returns whether a stop was requested, in which case ``check`` raises an error."""

    def stopped() -> bool:
        try:
            check()
        except StopError:
            return True
        return False

    return stopped
