"""A read limit in bytes per second, shared by all processes of a scan.

::

    time  |--- read of worker 1 ---|-- worker 2 --|--- worker 1 ---|        each read books the time for its bytes
          ^ worker 1 starts        ^ worker 2 sleeps until here             after all that was booked before

The next free instant is stored in memory that forked workers share. A record lock guards it, and is released if
the process that holds it dies.
Source: the generic cell rate algorithm (ITU-T I.371).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

_SECOND = 1_000_000_000
_CREDIT = _SECOND // 10
"""Later reads may use at most this much unused time, in ns, so that oversleeping does not lower the rate."""

_DUE = struct.Struct("=q")


class RateLimit:
    """A limit in bytes per second that this process and those forked from it later share.

    They can share instants because CLOCK_MONOTONIC is the same in all processes.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._fd = os.memfd_create("batchdiff-pace", os.MFD_CLOEXEC)
        os.pwrite(self._fd, _DUE.pack(time.monotonic_ns()), 0)

    def before(self, _fd: int, _offset: int, length: int) -> None:
        """Wait until the bytes may be read."""
        delay = self._booked(length) - time.monotonic_ns()
        if delay > 0:
            time.sleep(delay / _SECOND)

    def after(self, _fd: int, _offset: int, _length: int) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def _booked(self, length: int) -> int:
        """Book time for the read; return its start on CLOCK_MONOTONIC, in ns."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            due: int = _DUE.unpack(os.pread(self._fd, _DUE.size, 0))[0]
            due = max(due, time.monotonic_ns() - _CREDIT)
            os.pwrite(self._fd, _DUE.pack(due + length * _SECOND // self._rate), 0)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return due

    def close(self) -> None:
        """Close this process's descriptor of the shared memory."""
        os.close(self._fd)
