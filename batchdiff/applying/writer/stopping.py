"""A request to stop, returned instead of raised."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.errors import StopError


def stops(check: Callable[[], None]) -> Callable[[], bool]:
    """Return a function that returns whether ``check`` raises StopError."""

    def stopped() -> bool:
        try:
            check()
        except StopError:
            return True
        return False

    return stopped
