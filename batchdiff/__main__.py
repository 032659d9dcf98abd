"""The entry point of batchdiff."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130
"""``errors.EXIT_INTERRUPTED``, whose import Ctrl-C could interrupt."""

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python 3.11's default, 700, cost 4% of the start-up time of ``plan``. Objects made later form few cycles."""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    _take_names_for_utf8()
    _occupy_standard_descriptors()
    # numpy's OpenBLAS, unused here, would start a thread per CPU; forking with threads is not safe.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        # Imported here, so that Ctrl-C during the import causes no traceback.
        from batchdiff.cli.main import run  # noqa: PLC0415
        from batchdiff.signals import HELD  # noqa: PLC0415

        code = run(sys.argv[1:])
        for number in HELD:
            signal.signal(number, signal.SIG_IGN)  # too late to stop: the exit code is settled
    except KeyboardInterrupt:
        code = _INTERRUPTED
    _end(code)


def _take_names_for_utf8() -> None:
    """Try to restart Python in UTF-8 mode if file names have another encoding: plans and manifests are UTF-8."""
    stream = sys.stdout or sys.stderr
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions or not sys.executable:
        return
    if stream is not None:
        os.environ.setdefault("PYTHONIOENCODING", stream.encoding)  # overrides UTF-8 mode
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  # no shell


def _occupy_standard_descriptors() -> None:
    """Open /dev/null for closed standard descriptors.

    Otherwise, an overlay that is opened later could get one of their numbers, and with it a library's output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one


def _end(code: int) -> NoReturn:
    """Flush and exit without Python's shutdown, which would slow short commands by a tenth."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: the caller has closed it
        with contextlib.suppress(OSError, ValueError):  # too late to report a failure
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
