"""External programs in the background, killed when this process dies, even by SIGKILL.

::

    this process --- pipe ---> sh, which leads a process group: when the pipe closes, sh kills the group
          |                           ^ same group
          `---- listening socket ---> the program, confined

Confinement and the memory limit are those of :mod:`batchdiff.qemu.programs`; the programs' time is not limited.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO, cast

from batchdiff.files.filenames import shell_line
from batchdiff.qemu import programs
from batchdiff.qemu.landlock import start_confined
from batchdiff.qemu.programs import CompletedProgram

_MOST_PRINTED = 1 << 20
"""The maximum number of bytes of output."""

_AS_SERVICE = 'export LISTEN_PID=$$; exec "$@" 3<&0 </dev/null'
"""LISTEN_PID must be the program's own PID, and the socket must be descriptor 3."""
_KILL_GROUP_AT_END = "read -r _; kill -KILL 0"

LOWEST_DESCRIPTOR = 10
"""The shell that starts the program uses lower ones."""


class BackgroundProgram:
    """A program that serves the clients of a listening socket."""

    def __init__(
        self, argv: list[str], *, reads: Sequence[str], package: str, listener: int, passed: Sequence[int]
    ) -> None:
        """Start the program. It gets the socket ``listener`` as systemd would pass it: ``sd_listen_fds(3)``.

        ``reads``: files that it may read besides installed ones. ``passed``: descriptors that it inherits, none
        below :data:`LOWEST_DESCRIPTOR`. ``package``: the Debian package that contains it.

        :raises ProgramError: the program cannot be started.
        """
        self._argv = tuple(argv)
        with contextlib.ExitStack() as opened:
            try:
                self._output = os.memfd_create("batchdiff-output", os.MFD_CLOEXEC)
                opened.callback(os.close, self._output)
                if not programs.is_on_path(argv[0]):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
                group = opened.enter_context(_watcher()).pid

                def start() -> subprocess.Popen[bytes]:
                    return subprocess.Popen(
                        ["sh", "-c", _AS_SERVICE, "sh", *argv],
                        stdin=listener,
                        stdout=self._output,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"LC_ALL": "C", "LISTEN_FDS": "1"},
                        process_group=group,
                        pass_fds=passed,
                    )

                self._process = start_confined(start, argv[0], reads)
            except OSError as error:
                raise programs.not_started(argv[0], package, error) from error
            limits = {resource.RLIMIT_AS: programs.MEMORY, resource.RLIMIT_FSIZE: _MOST_PRINTED}
            programs.limit(self._process, limits)
            self._opened = opened.pop_all()

    def described(self, *, ended: bool) -> str:
        """Return the command and the start of its output, as a clause.

        ``ended``: add the exit code or signal if the program has ended; must be False in a forked process.
        """
        output = os.pread(self._output, programs.KEPT, 0).decode("utf-8", "replace")
        code = self._process.poll() if ended else None
        if code is None:
            said = programs.as_clause(output)
            return f"`{shell_line(self._argv)}`{': ' + said if said else ''}"
        return CompletedProgram(self._argv, code, output).described()

    def wait(self, seconds: float) -> None:
        """Wait for the program to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self) -> None:
        """Kill the program, and discard its output."""
        self._opened.close()
        self._process.wait()


@contextlib.contextmanager
def _watcher() -> Iterator[subprocess.Popen[bytes]]:
    """Yield the leader of a process group; the group is killed when the block or this process ends.

    The program can join the group because both are in this process's session. Ctrl-C does not reach the group.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", _KILL_GROUP_AT_END],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    programs.running.add(watcher)
    with cast("IO[bytes]", watcher.stdin) as pipe:
        _pipes.add(pipe)
        try:
            yield watcher
        finally:
            _pipes.discard(pipe)
            programs.kill(watcher)


_pipes: set[IO[bytes]] = set()
"""Write ends of pipes, which must not be open in any other process."""


def _close_pipes() -> None:
    """Close the pipes in a forked process: otherwise, the programs could outlive the process that started them."""
    for pipe in _pipes:
        pipe.close()
    _pipes.clear()


os.register_at_fork(after_in_child=_close_pipes)
