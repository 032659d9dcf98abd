"""Runs batchdiff for a history: in this process, or in a fork that is killed at a chosen call."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from batchdiff.cli.main import run

CODES = {0, 1, 2, 3, 4, 5, 6, 7}
"""How a command may end that nobody interrupted."""

CALLS = ("renameat2", "unlink", "fsync", "pwrite64", "write", "fchmod", "fsetxattr", "copy_file_range", "rename")
"""The calls by which batchdiff changes a disk; it is killed just before one of them."""


@dataclass(frozen=True)
class Kill:
    """When to kill: before the ``number``-th of these calls."""

    call: str
    number: int


@dataclass(frozen=True)
class Done:
    """How a command ended. ``code`` is None if it was killed; ``events`` are those of ``--json``."""

    code: int | None
    events: tuple[dict, ...]
    said: str

    @property
    def outcomes(self) -> dict[str, dict]:
        """What became of each guest."""
        return {event["name"]: event for event in self.events if event["event"] == "guest"}


def finished(argv: tuple[str, ...]) -> Done:
    """Runs a command in this process, to its end."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = _code(list(argv))
    finally:
        signal.signal(signal.SIGTERM, before)
    return _done(code, out.getvalue(), err.getvalue())


def _code(argv: list[str]) -> int:
    try:
        return run(argv)
    except SystemExit as end:  # what the parser of the command line does
        return int(end.code or 0)


def _done(code: int | None, out: str, err: str) -> Done:
    lines = out.splitlines()
    if code is None:  # the last line may be cut
        lines = [line for line in lines if line.endswith("}")]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return Done(code, tuple(events), (out if not events else "") + err)


def killed(argv: tuple[str, ...], kill: Kill, scratch: Path) -> Done:
    """Runs a command in a fork, and kills it at that call if it gets so far."""
    out, err = scratch / "out", scratch / "err"
    with _gate() as (gate, opener):
        child = _forked(list(argv), gate, out, err)
        inject = f"inject={kill.call}:signal=SIGKILL:when={kill.number}"
        tracer = subprocess.Popen(
            ["strace", "-qq", "-p", str(child), "-o", "/dev/null", "-e", f"trace={kill.call}", "-e", inject],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while not _is_traced(child):
            assert tracer.poll() is None, tracer.communicate()
            time.sleep(0.0005)
        os.write(opener, b"!")
    _, status = os.waitpid(child, 0)
    tracer.communicate(timeout=60)
    was_killed = os.WIFSIGNALED(status)
    assert not was_killed or os.WTERMSIG(status) == signal.SIGKILL
    return _done(None if was_killed else os.waitstatus_to_exitcode(status), out.read_text(), err.read_text())


@contextlib.contextmanager
def _gate():
    gate, opener = os.pipe()
    try:
        yield gate, opener
    finally:
        os.close(gate)
        os.close(opener)


def _forked(argv: list[str], gate: int, out: Path, err: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # pytest-xdist has a thread, which holds no lock of ours
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        sys.stdout, sys.stderr = out.open("w"), err.open("w")  # they end with the process
        os.read(gate, 1)
        code = _code(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _is_traced(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    return "\nTracerPid:\t0\n" not in status


@cache
def options(verb: str) -> frozenset[str]:
    """The options that a verb has, by its help: a history can run against an older batchdiff too."""
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]*", finished((verb, "--help")).said))
