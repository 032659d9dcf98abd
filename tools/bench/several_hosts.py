"""Plans by the workers of a Dask scheduler, which stand in for hosts; all of them run on this machine.

::

    measured    1 and 2 workers, and as many processes without Dask   all CPUs of the machine are busy
    simulated   1 to 16 workers, each with a limited read rate        each is a host that its network limits
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.contestants import plan, plan_command, restored
from bench.fleets import Fleet
from bench.races import warm_race
from bench.report import Race
from bench.running import Run, timed

RATE = "64MiB"
"""The bytes that a simulated host may read in a second: so few that 16 hosts leave two cores time to spare."""

LIMITED = (1, 2, 4, 8, 16)
MEASURED = (1, 2)

_READY = 60.0
"""Seconds after which a worker that has not started never will."""


def hosts(number: int) -> str:
    """Return the name of the contestant with that many hosts."""
    return f"{number} host{'s' if number > 1 else ''} with {RATE}/s"


def workers_race(fleet: Fleet, rounds: int) -> Race:
    """Race plans by workers of Dask and by processes without Dask."""
    entries: dict[str, Callable[[], Run]] = {}
    for number in MEASURED:
        many = "s" if number > 1 else ""
        entries[f"plan, {number} job{many}"] = partial(plan, fleet, jobs=number)
        entries[f"plan, {number} Dask worker{many}"] = partial(plan_by, fleet, number)
    return warm_race("dask", fleet, entries, rounds)


def hosts_race(fleet: Fleet, rounds: int) -> Race:
    """Race plans by few and by many hosts."""
    entries = {hosts(number): partial(plan_by, fleet, number, "--limit-rate", RATE) for number in LIMITED}
    return warm_race("dask, limited", fleet, entries, min(rounds, 2))


def plan_by(fleet: Fleet, workers: int, *options: str) -> Run:
    """Time ``batchdiff plan`` with that many workers, which are started beforehand."""
    with restored(fleet), running_workers(fleet.folder, workers) as scheduler:
        return timed([*plan_command(fleet), "--scheduler", scheduler, *options])


@contextlib.contextmanager
def running_workers(folder: str, number: int) -> Iterator[str]:
    """Yield the address of a scheduler with workers of one thread each; end all of them afterwards.

    :raises RuntimeError: one did not start in time.
    """
    with contextlib.ExitStack() as running:
        file = os.path.join(folder, "scheduler.json")
        own = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
        running.enter_context(_dask(f"{file}.log", "scheduler", *own))
        address: str = json.loads(_text_with(file, "}"))["address"]
        logs = [os.path.join(folder, f"worker-{each}.log") for each in range(number)]
        for log in logs:
            # Loaded beforehand: real hosts load it at the same time, but here all of them share two cores.
            local = ("--local-directory", f"{log}.d", "--preload", "batchdiff.planning.remote.remote_scan")
            running.enter_context(_dask(log, "worker", address, "--nthreads", "1", "--no-nanny", *local))
        for log in logs:
            _text_with(log, "Registered to")
        yield address


@contextlib.contextmanager
def _dask(log: str, *arguments: str) -> Iterator[None]:
    argv: Sequence[str] = (sys.executable, "-m", "dask", *arguments, "--no-dashboard")
    with open(log, "wb") as output, subprocess.Popen(argv, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.kill()


def _text_with(path: str, part: str) -> str:
    """Return the text of a file once it has a certain part."""
    end = time.monotonic() + _READY
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            if part in (text := file.read()):
                return text
        time.sleep(0.05)
    raise RuntimeError(f"{path} still does not contain {part!r} after {_READY:.0f} s")
