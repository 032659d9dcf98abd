"""``python -m batchdiff``."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130
"""``errors.EXIT_INTERRUPTED``, here without an import that Ctrl-C could interrupt."""

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Startup creates about half this number of objects, and keeps them all. By default, Python 3.11 collects garbage
after every 700 of them, which took 4% of the time that ``plan`` needs to start. Later objects form few cycles."""


def main() -> NoReturn:
    """Run a verb and exit with its code, as the installed command does."""
    _take_names_for_utf8()
    _occupy_standard_descriptors()
    # numpy's linear algebra, never used here, would start a thread per CPU. That takes a seventh of the time that
    # numpy needs to load, and forking a process that has threads is not safe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        # Imported here, so that Ctrl-C during the import causes no traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415
        from batchdiff.signals import HELD  # noqa: PLC0415

        code = run(sys.argv[1:])
        for number in HELD:
            signal.signal(number, signal.SIG_IGN)  # too late to stop: the exit code must show that all is done
    except KeyboardInterrupt:
        code = _INTERRUPTED
    _end(code)


def _take_names_for_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale would make it decode file names in another encoding.

    Manifests and plans are UTF-8, and the bytes of a file name do not depend on the locale. In ASCII or
    Latin-1, Python would not find a file that the manifest names, and would record the names of files wrongly.
    Messages keep the locale's encoding: PYTHONIOENCODING passes it on, because UTF-8 mode would override it.
    """
    stream = sys.stdout or sys.stderr
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions or not sys.executable:
        return
    if stream is not None:
        os.environ.setdefault("PYTHONIOENCODING", stream.encoding)
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  # no shell


def _occupy_standard_descriptors() -> None:
    """Open /dev/null in place of each descriptor from 0 to 2 that the caller has closed, as with ``2>&-``.

    Otherwise the next file to be opened, such as an overlay, would get that number, and receive whatever a library
    prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def _end(code: int) -> NoReturn:
    """Exit immediately: all files are closed, and interpreter shutdown would slow short commands by a tenth."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader is gone; the failed write was reported
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
