"""What Ctrl-C and SIGTERM do to a command that changes disks: the first asks it to stop, the second ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from batchdiff.applying.stopping import Stop
from batchdiff.errors import EXIT_INTERRUPTED
from batchdiff.image.programs import kill_all

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping() -> Iterator[Stop]:
    """A request to stop that the signals make, while the block runs.

    The second signal ends the process where it is, as a power cut would: the next run clears up after it.
    """
    stop = Stop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_asked:
            kill_all()
            os._exit(EXIT_INTERRUPTED)
        stop.ask()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
