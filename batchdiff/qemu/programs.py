"""External programs that run to their end.

A program gets the C locale, no standard input, and limits on time and memory. Confinement:
:mod:`batchdiff.qemu.landlock`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, cast

from batchdiff.errors import ProgramError, StopError
from batchdiff.files.filenames import shell_line
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import AGAIN, explain
from batchdiff.linux.permissions import Deed
from batchdiff.qemu.landlock import start_confined
from batchdiff.qemu.percentages import Percentages
from batchdiff.signals import signal_name
from batchdiff.units import format_size

KEPT = 64 << 10
"""Bytes of output to keep: a damaged image can make `qemu-img check` print gigabytes."""


MEMORY = 2 << 30
"""Bytes of address space; with a quarter of this, qemu-img fails on valid images."""


WHEN_TOO_SLOW = (
    "If the disk was busy, run the same command again later. If the program hangs again while reading an image,"
    " check the image."
)


class OutputError(ProgramError):
    """A program has printed too much."""


running: set[subprocess.Popen[bytes]] = set()
"""Leaders of process groups."""

_GLANCE = 0.1
"""The maximum number of seconds between two checks for a request to stop."""


@frozen
class CompletedProgram:
    """A program that has ended.

    ``code``: the exit code, or minus the number of the signal that ended it; ``output``: the kept part of
    stdout and stderr.
    """

    argv: tuple[str, ...]
    code: int
    output: str

    def described(self) -> str:
        """Return the command, how it ended, and its output, as a clause."""
        how = f"killed by {signal_name(-self.code)}" if self.code < 0 else f"exit code {self.code}"
        output = as_clause(self.output)
        return f"`{shell_line(self.argv)}` ({how}){': ' + output if output else ''}"


def as_clause(output: str) -> str:
    """Return a program's output as a clause."""
    lines = (line.rstrip(" .!") for line in output.splitlines())
    return "; ".join(line for line in lines if line)


def without_ranges(done: CompletedProgram) -> str:
    """Describe a `qemu-img map` that failed, without the ranges that it printed."""
    words = "\n".join(line for line in done.output.splitlines() if not line.startswith(("[{", "{")))
    return replace(done, output=words).described()


def is_on_path(name: str) -> bool:
    """Return whether a program is on the PATH."""
    return shutil.which(name) is not None


def never() -> bool:
    """Never ask a program to stop."""
    return False


def run(  # noqa: PLR0913  # options by keyword
    argv: list[str],
    *,
    reads: Sequence[str] | None,
    timeout: float,
    package: str,
    stopped: Callable[[], bool] = never,
    writes: Sequence[int] = (),
    inherits: Sequence[int] = (),
    most_output: int | None = None,
    percent: Callable[[float], None] | None = None,
) -> CompletedProgram:
    """Run a program to its end.

    ``reads``: the files that it may read besides installed ones; None: it runs unconfined. ``writes``:
    descriptors of files that it may read and write by the paths that :func:`inherited` returns. ``inherits``:
    descriptors of files in memory, or of files in ``reads``. ``timeout``: seconds. ``most_output``: bytes at which
    output is too long; None: only the first 64 KiB are kept. ``percent``: called repeatedly with the latest
    percentage; the output is then kept without percentages.

    :raises OutputError: the output is too long.
    :raises ProgramError: the program cannot be started, or takes too long.
    :raises StopError: ``stopped`` became true.
    """
    # If the program does not end by itself, `finally` kills its whole process group.
    deadline = time.monotonic() + timeout
    process = _started(argv, reads, writes, inherits, package)
    try:
        limit(process, {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_CPU: math.ceil(timeout)})
        output = _read_output(process, deadline, stopped, most_output, percent)
        code = process.wait(max(deadline - time.monotonic(), 0))
        return CompletedProgram(tuple(argv), code, output.decode("utf-8", "replace"))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise ProgramError(
            f"`{shell_line(argv)}` was stopped",
            why=f"it had not finished after {timeout:.0f} seconds",
            remedy=WHEN_TOO_SLOW,
        ) from error
    finally:
        kill(process)


def inherited(fd: int) -> str:
    """Return a path that opens the file of an inherited descriptor, whatever is at the file's own path now."""
    return f"/proc/self/fd/{fd}"


def _started(
    argv: list[str], reads: Sequence[str] | None, writes: Sequence[int], inherits: Sequence[int], package: str
) -> subprocess.Popen[bytes]:
    def start() -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C does not reach the program, and its group can be killed as a whole.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
            pass_fds=(*writes, *inherits),
        )
        running.add(process)
        return process

    try:
        return start() if reads is None else start_confined(start, argv[0], reads, map(inherited, writes))
    except OSError as error:
        raise not_started(argv[0], package, error) from error


def not_started(name: str, package: str, error: OSError) -> ProgramError:
    """Return the error to raise if a program cannot be started."""
    why, remedy = error.strerror or str(error), ""
    if error.filename == name:
        is_missing = error.errno == errno.ENOENT
        remedy = f"Install it{'' if is_missing else ' again'} (Debian: {package}), {AGAIN}"
    elif error.errno == errno.EAGAIN:
        remedy = f"Raise the limit on processes (`ulimit -u`, `TasksMax=` of a service), {AGAIN}"
    elif error.filename is not None:  # such as a file given to the program
        why, remedy = explain(error, Deed.READ)
    return ProgramError(f"cannot run {name}", why=why, remedy=remedy)


def limit(process: subprocess.Popen[bytes], limits: dict[int, int]) -> None:
    """Set soft and hard limits on a process; the limit on core dumps is always 0."""
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        for what, most in (limits | {resource.RLIMIT_CORE: 0}).items():
            _, hard = resource.prlimit(process.pid, what)
            # Never raise a hard limit: only root could, and even root should not.
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(process.pid, what, (least, least))


def kill_all() -> None:
    """Kill the process groups of all running programs."""
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _read_output(
    process: subprocess.Popen[bytes],
    deadline: float,
    stopped: Callable[[], bool],
    most: int | None,
    percent: Callable[[float], None] | None,
) -> bytearray:
    kept, percentages = bytearray(), Percentages()
    with cast("IO[bytes]", process.stdout) as pipe:
        poll = select.poll()  # select() is limited to descriptors below 1,024
        poll.register(pipe, select.POLLIN)
        while True:
            left = max(deadline - time.monotonic(), 0)
            ready = poll.poll(min(left, _GLANCE) * 1000)
            if stopped():
                raise StopError("interrupted")
            if percent is not None:
                percent(percentages.latest)
            if not ready and left == 0:
                raise TimeoutError
            if not ready:
                continue
            got = os.read(pipe.fileno(), KEPT)
            if not got:
                return kept + percentages.rest()
            if percent is not None:
                got = percentages.without(got)
            if most is None:
                kept += got[: KEPT - len(kept)]
            elif len(kept) + len(got) < most:
                kept += got
            else:
                raise OutputError(
                    f"`{shell_line(cast('list[str]', process.args))}` was stopped",
                    why=f"its output exceeds {format_size(most)}",
                    remedy="Run it yourself to see what it prints.",
                )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and wait for its end, unless it has been waited for already."""
    if process.returncode is None:  # not waited for yet, so its PID cannot have been reused
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    running.discard(process)
