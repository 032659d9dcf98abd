"""The response to Ctrl-C, SIGTERM and SIGHUP while a command works on images."""

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
    """Yield the request to stop, which the first SIGINT, SIGTERM or SIGHUP makes.

    A later SIGINT or SIGTERM kills external programs and ends the process at once; the next run cleans up.
    """
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_asked and number == signal.SIGHUP:
            return  # closing a terminal may send SIGHUP twice: from the kernel and from the shell
        if stop.is_asked:
            kill_all()
            os._exit(EXIT_INTERRUPTED)
        stop.ask()

    # Shell scripts start background jobs with SIGINT ignored, and nohup ignores SIGHUP: both must stay ignored.
    heard = [number for number in HELD if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
