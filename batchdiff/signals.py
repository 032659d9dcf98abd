"""Signals: their names, for telling how a process died, and what must not be cut in two by one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM)
"""By which people end a command."""


@contextmanager
def held_signals() -> Iterator[None]:
    """Inside, what would end the command is held back; it comes at the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def signal_name(number: int) -> str:
    """The name of a signal; most real-time signals have none."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
