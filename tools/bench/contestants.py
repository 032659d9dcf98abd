"""What is timed on a fleet: batchdiff, the ways to do the same with QEMU's tools, and the limit."""

from __future__ import annotations

import glob
import mmap
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from bench.fleets import Fleet

JOBS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: seconds, and the largest resident set of any of its processes in bytes."""

    seconds: float
    resident: int


Contestant = Callable[[Fleet], Run]


def timed(*commands: list[str]) -> Run:
    """Runs commands one after the other; their output is thrown away."""
    resident = 0
    begin = time.perf_counter()
    for argv in commands:
        # fork, not spawn: a spawned child's largest resident set would be at least the benchmark's own.
        pid = os.fork()
        if pid == 0:
            _execute(argv)
        _, status, usage = os.wait4(pid, 0)
        if status != 0:
            raise RuntimeError(f"{argv} ended with {os.waitstatus_to_exitcode(status)}")
        resident = max(resident, usage.ru_maxrss * 1024)
    return Run(time.perf_counter() - begin, resident)


def _execute(argv: list[str]) -> NoReturn:
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.execvp(argv[0], argv)
    finally:
        os._exit(127)


def _batchdiff(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchdiff", *arguments]


def plan(fleet: Fleet, *, jobs: int = JOBS) -> Run:
    """``batchdiff plan``."""
    return timed(_batchdiff("plan", "-q", "-j", str(jobs), "-o", _plan_path(fleet), fleet.manifest))


def plan_and_apply(fleet: Fleet) -> Run:
    """``batchdiff plan`` and ``apply`` with full verification by QEMU."""
    run = timed(
        _batchdiff("plan", "-q", "-j", str(JOBS), "-o", _plan_path(fleet), fleet.manifest),
        _batchdiff("apply", "-q", _plan_path(fleet)),
    )
    _clear(fleet)
    return run


def rebase(fleet: Fleet) -> Run:
    """``qemu-img create`` on each guest and ``rebase`` onto the template."""
    run = timed(*(command for guest in fleet.guests for command in _rebase(fleet, guest)))
    _clear(fleet)
    return run


def rebase_and_compare(fleet: Fleet) -> Run:
    """The same, and ``qemu-img compare`` of each with its original."""
    commands = []
    for guest in fleet.guests:
        commands += _rebase(fleet, guest)
        commands.append(
            ["qemu-img", "compare", "-q", "-f", fleet.image_format, "-F", "qcow2", guest, _overlay(guest)]
        )
    run = timed(*commands)
    _clear(fleet)
    return run


def compare(fleet: Fleet) -> Run:
    """``qemu-img compare`` of each guest with itself: with the template it would stop at the first difference."""
    each = ["qemu-img", "compare", "-q", "-f", fleet.image_format, "-F", fleet.image_format]
    return timed(*([*each, guest, guest] for guest in fleet.guests))


def limit(fleet: Fleet) -> Run:
    """Processes that read every allocated byte once, and do nothing with it."""
    begin = time.perf_counter()
    children = [_child(fleet, number) for number in range(JOBS)]
    resident = 0
    for child in children:
        _, status, usage = os.wait4(child, 0)
        if status != 0:
            raise RuntimeError("a reader failed")
        resident = max(resident, usage.ru_maxrss * 1024)
    return Run(time.perf_counter() - begin, resident)


_RANGE, _BUFFER = 64 << 20, 1 << 20


def _child(fleet: Fleet, number: int) -> int:
    pid = os.fork()
    if pid == 0:
        buffer = memoryview(mmap.mmap(-1, _BUFFER))
        for path in fleet.images:
            fd = os.open(path, os.O_RDONLY)
            for begin in range(number * _RANGE, os.fstat(fd).st_size, JOBS * _RANGE):
                _read_data(fd, buffer, begin, begin + _RANGE)
            os.close(fd)
        os._exit(0)
    return pid


def _read_data(fd: int, buffer: memoryview, begin: int, end: int) -> None:
    while begin < end:
        try:
            begin = os.lseek(fd, begin, os.SEEK_DATA)
        except OSError:
            return
        hole = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        while begin < hole:
            begin += os.preadv(fd, [buffer[: min(_BUFFER, hole - begin)]], begin)


def _rebase(fleet: Fleet, guest: str) -> list[list[str]]:
    overlay = _overlay(guest)
    return [
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", guest, "-F", fleet.image_format, overlay],
        ["qemu-img", "rebase", "-q", "-f", "qcow2", "-b", fleet.template, "-F", fleet.image_format, overlay],
    ]


def _overlay(guest: str) -> str:
    return f"{guest}.rebased"


def _plan_path(fleet: Fleet) -> str:
    return os.path.join(fleet.folder, "bench.plan.json")


def _clear(fleet: Fleet) -> None:
    """Removes what a contestant wrote, outside its time."""
    made = set(glob.glob(os.path.join(fleet.folder, "*"))) - {*fleet.images, fleet.manifest}
    for path in made:
        os.unlink(path)
    os.chmod(fleet.template, 0o644)


CONTESTANTS: dict[str, Contestant] = {
    "plan": plan,
    "plan + apply": plan_and_apply,
    "read limit": limit,
    "create + rebase": rebase,
    "create + rebase + compare": rebase_and_compare,
    "compare": compare,
}
