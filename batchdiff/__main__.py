"""``python -m batchdiff``."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""A start makes half as many, and all of them stay: looking for garbage among them, as Python does after each 700,
took 4 % of a plan's start. What is made later leaves next to no cycles."""


def main() -> NoReturn:
    """The installed command: runs a verb and exits with its code."""
    _take_names_for_utf8()
    _occupy_standard_descriptors()
    # numpy's linear algebra, never used here, would start a thread for each CPU: a seventh of the time to load
    # numpy, and forking with threads is not safe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        # Imported here: Ctrl-C while it loads is no reason for a traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415

        code = run(sys.argv[1:])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # too late: all is done, and the exit code shall say so
    except KeyboardInterrupt:
        code = _INTERRUPTED
    _end(code)


def _take_names_for_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale would make it read file names as something else.

    A manifest is UTF-8, a plan too, and the bytes of a name are what they are, whatever the locale: as ASCII or
    Latin-1, a name from the manifest would not be found, and one from a folder would be recorded wrongly. Messages
    keep the encoding of the locale, which only this process still knows.
    """
    stream = sys.stdout or sys.stderr
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions or not sys.executable:
        return
    if stream is not None:
        os.environ.setdefault("PYTHONIOENCODING", stream.encoding)
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  # no shell


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
