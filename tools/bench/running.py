"""Runs of commands, with their time and the largest resident memory of their processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from typing import NoReturn

_POLL = 0.02
"""Seconds between readings of a worker's memory. The kernel records the peak, so at most 20 ms are missed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: seconds, and the largest resident set of any of its processes in bytes."""

    seconds: float
    resident: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The largest resident sets in bytes: of the command's own process, and of any that it started."""

    own: int
    worker: int


def timed(*commands: list[str]) -> Run:
    """Run commands one after the other, without their output to stdout, and return the time of all.

    :raises RuntimeError: one fails.
    """
    resident = 0
    begin = time.perf_counter()
    for argv in commands:
        # fork, not spawn: a spawned child's largest resident set would be at least the benchmark's own.
        pid = os.fork()
        if pid == 0:
            _execute(argv)
        # The usage includes all processes that this one waited for, such as batchdiff's workers.
        _, status, usage = os.wait4(pid, 0)
        if status != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with exit code {os.waitstatus_to_exitcode(status)}")
        resident = max(resident, usage.ru_maxrss * 1024)
    return Run(time.perf_counter() - begin, resident)


def _execute(argv: list[str]) -> NoReturn:
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):  # stderr stays, for errors
            os.dup2(null, fd)
        os.execvp(argv[0], argv)
    finally:
        os._exit(127)


def memory_of(argv: list[str]) -> Memory:
    """Run a command and keep reading the memory of its processes; too slow for timing.

    :raises RuntimeError: it fails.
    """
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    own = worker = 0
    while process.poll() is None:
        own = max(own, _largest_resident(process.pid))
        worker = max([worker, *map(_largest_resident, _children(process.pid))])
        time.sleep(_POLL)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with exit code {process.returncode}")
    return Memory(own, worker)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
    return []


def _largest_resident(pid: int) -> int:
    """Return VmHWM of a process, in bytes; 0 if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)
    return 0
