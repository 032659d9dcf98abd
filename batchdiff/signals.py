"""Signals: their names, for reports of a process's death, and code that they must not interrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals with which people end a command, the last one by closing its terminal."""


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold back, inside the block, the signals that would end the command; they are delivered after it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGTERM``; ``signal 40`` for one without a name."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
