"""Real schedulers and workers of Dask, each a process of its own; none outlives its test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from real_holders import wait_for

ROOT = Path(__file__).parents[1]
DASK = (sys.executable, "-m", "dask")
_QUIET = ("--no-dashboard",)


@contextlib.contextmanager
def scheduler(folder: Path, *options: str) -> Iterator[Scheduler]:
    """A scheduler on the loopback, which has no batchdiff."""
    file = folder / "scheduler.json"
    where = () if "--host" in options else ("--host", "127.0.0.1")
    without = folder / "without"
    without.mkdir()
    (without / "batchdiff.py").write_text("raise ImportError('the scheduler needs no batchdiff')\n")
    argv = [*DASK, "scheduler", *where, "--port", "0", "--scheduler-file", str(file), *_QUIET, *options]
    with _process(argv, folder / "scheduler.log", PYTHONPATH=str(without)) as process:
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        yield Scheduler(json.loads(file.read_text())["address"], process)


class Scheduler:
    def __init__(self, address: str, process: subprocess.Popen[bytes]) -> None:
        self.address, self.process = address, process
        self.workers: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def worker(
    scheduler: Scheduler,
    folder: Path,
    *options: str,
    before: Sequence[str] = (),
    package: Path = ROOT,
    nanny: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with one thread; ``package``: the folder from which it imports batchdiff.

    ``nanny``: a process that starts it, and a new one whenever it dies.
    """
    folder.mkdir()
    local = ("--local-directory", str(folder / "dask"))
    one = ("--nthreads", "1", "--nanny" if nanny else "--no-nanny")
    argv = [*before, *DASK, "worker", scheduler.address, *one, *local, *_QUIET, *options]
    with _process(argv, folder / "worker.log", PYTHONPATH=f"{package}:{ROOT / 'tests'}") as process:
        wait_for(lambda: "Registered to" in (folder / "worker.log").read_text() or process.poll() is not None)
        yield process


@contextlib.contextmanager
def _process(argv: Sequence[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        # Elsewhere than the tests: Python would find their batchdiff in the current folder first.
        started = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            cwd=log.parent,
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
