"""A limit on bytes a second that all processes of a scan keep together.

::

    due   |--- read of worker 1 ---|-- worker 2 --|--- worker 1 ---|        each read books its share of time after
          ^ begins here            ^ sleeps until then                      what was booked before, whoever did

The next free instant is 8 bytes of memory that forked workers share. A record lock keeps two from booking at
once; it belongs to a process, so one that dies gives it back.
Source of the idea: the generic cell rate algorithm (ITU-T I.371), a token bucket without tokens.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

_SECOND = 1_000_000_000
_CREDIT = _SECOND // 10
"""How much unused time may be made up for, so that a sleep that lasts too long does not lower the rate."""

_DUE = struct.Struct("=q")


class Pace:
    """Lets processes that were forked after its creation read ``rate`` bytes a second in all.

    CLOCK_MONOTONIC is the same in every process of a machine.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._fd = os.memfd_create("batchdiff-pace", os.MFD_CLOEXEC)
        os.pwrite(self._fd, _DUE.pack(time.monotonic_ns()), 0)

    def before(self, _fd: int, _offset: int, length: int) -> None:
        """Waits until the bytes may be read."""
        delay = self._booked(length) - time.monotonic_ns()
        if delay > 0:
            time.sleep(delay / _SECOND)

    def after(self, _fd: int, _offset: int, _length: int) -> None:
        """Nothing: time was booked before."""

    def settle(self) -> None:
        """Nothing."""

    def _booked(self, length: int) -> int:
        """When the bytes may be read, in nanoseconds; the time that they take is booked."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            due: int = _DUE.unpack(os.pread(self._fd, _DUE.size, 0))[0]
            due = max(due, time.monotonic_ns() - _CREDIT)
            os.pwrite(self._fd, _DUE.pack(due + length * _SECOND // self._rate), 0)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        return due

    def close(self) -> None:
        """Gives the shared memory back."""
        os.close(self._fd)
