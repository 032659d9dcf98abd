"""Ctrl-C, SIGTERM and SIGHUP while a command works on images: one asks it to stop, the next kills it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from batchdiff.applying.session.stop import Stop
from batchdiff.errors import EXIT_INTERRUPTED
from batchdiff.qemu.programs import kill_all
from batchdiff.signals import HELD


@contextmanager
def stopping() -> Iterator[Stop]:
    """Yield a :class:`Stop`, through which the first signal inside the block asks the command to stop.

    Another signal, unless it is SIGHUP, ends the process at once, as a power cut would; the next run cleans up
    after it.
    """
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_asked and number == signal.SIGHUP:
            return  # it may come twice when a terminal is closed: from the kernel and from the shell
        if stop.is_asked:
            kill_all()
            os._exit(EXIT_INTERRUPTED)
        stop.ask()

    # A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP: both must remain ignored.
    heard = [number for number in HELD if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
