"""Signals: their names, for reports of a process's death, and code that they must not interrupt."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals with which a command is usually ended; closing its terminal sends SIGHUP."""


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold back the HELD signals from this thread until the block ends; such blocks must not be nested."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def signal_name(number: int) -> str:
    """Return the name of a signal: ``SIGTERM``, or ``signal 40`` if it has none."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
