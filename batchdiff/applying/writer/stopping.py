"""A request to stop, returned as a truth value instead of raised as an error."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.errors import StopError


def stops(check: Callable[[], None]) -> Callable[[], bool]:
    """Return a function that returns True if ``check`` raises StopError, and False if it returns."""

    def stopped() -> bool:
        try:
            check()
        except StopError:
            return True
        return False

    return stopped
