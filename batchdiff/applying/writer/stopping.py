"""A request to stop, in the form that programs need: a condition rather than an error."""

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
