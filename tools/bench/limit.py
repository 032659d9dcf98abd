"""The read limit: processes that pread every allocated byte of some files once, and do nothing with it."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence

from batchdiff.units import MIB
from bench.running import Run

_RANGE, _BUFFER = 64 * MIB, MIB
"""The processes take ranges in turn, as batchdiff's workers do; larger buffers do not fit into the CPU's cache."""


def read_limit(paths: Sequence[str], jobs: int) -> Run:
    """Read the files with ``jobs`` processes and return the time that it took.

    :raises RuntimeError: a file cannot be read.
    """
    begin = time.perf_counter()
    children = [_reader(paths, number, jobs) for number in range(jobs)]
    resident = 0
    for child in children:
        _, status, usage = os.wait4(child, 0)
        if status != 0:
            raise RuntimeError("a reader failed")
        resident = max(resident, usage.ru_maxrss * 1024)
    return Run(time.perf_counter() - begin, resident)


def _reader(paths: Sequence[str], number: int, jobs: int) -> int:
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        buffer = memoryview(mmap.mmap(-1, _BUFFER))
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            _read_ranges(fd, buffer, number, jobs)
            os.close(fd)
        os._exit(0)
    finally:
        os._exit(1)


def _read_ranges(fd: int, buffer: memoryview, number: int, jobs: int) -> None:
    size, at = os.fstat(fd).st_size, 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # no more data
            return
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        while at < hole:
            end = min(hole, (at // _RANGE + 1) * _RANGE)
            if at // _RANGE % jobs == number:
                _read(fd, buffer, at, end)
            at = end


def _read(fd: int, buffer: memoryview, at: int, end: int) -> None:
    while at < end:
        count = os.preadv(fd, [buffer[: min(_BUFFER, end - at)]], at)
        if count == 0:
            return
        at += count
