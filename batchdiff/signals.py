"""Signals by name, for telling how a process died."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """The name of a signal; most real-time signals have none."""
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")
