"""``python -m batchdiff``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130


def main() -> NoReturn:
    """The installed command: runs a verb and exits with its code."""
    _occupy_standard_descriptors()
    # numpy's linear algebra, never used here, would start a thread for each CPU: a seventh of the time to load
    # numpy, and forking with threads is not safe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        # Imported here: Ctrl-C while it loads is no reason for a traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415

        code = run(sys.argv[1:])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # too late: all is done, and the exit code shall say so
    except KeyboardInterrupt:
        code = _INTERRUPTED
    _end(code)


def _occupy_standard_descriptors() -> None:
    """Put /dev/null where descriptors 0 to 2 were closed, as by ``2>&-``.

    Otherwise the next file to be opened, such as an overlay, gets that number, and whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one


def _end(code: int) -> NoReturn:
    """Ends at once: all is closed and said, and taking the modules apart would be a tenth of a short command."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more; who wrote has told it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
