"""Starts batchdiff in a process of its own that need not load it: a fork of a process that has loaded all of it.

Loading is half of what a short command costs, and tests start thousands of them. ::

    test  --- command, folder, environment, descriptors 0 to 2 --->  server  --- fork --->  batchdiff
          <---------------- process id, then exit status ----------          <-- waitpid -

The server never runs a command itself, so each one finds the modules as they were loaded. Only two things differ
from a new interpreter: what Python does before ``main()``, and the order in which modules load. Both have tests:
tests/cli/test_locales.py, test_main.py and test_start.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import batchdiff
from batchdiff.errors import UsageError

_NUMBER = struct.Struct("i")
_LONGEST_MESSAGE = 1 << 16
_READ_BY_PYTHON = ("PYTHON", "LC_", "LANG", "TZ")
"""How variables begin that Python reads when it starts."""


class ForkServer:
    """The test's side of a server; it runs one command at a time, and ends with its test process."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._busy, self._pid, self._settings = threading.Lock(), os.getpid(), _settings(os.environ)
        argv = [sys.executable, __file__, str(other.fileno())]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as batchdiff does before it loads numpy
        with other:
            self._process = subprocess.Popen(
                argv, pass_fds=[other.fileno()], env=environment, stdin=subprocess.DEVNULL
            )

    @contextlib.contextmanager
    def reserved(self, environment: dict[str, str]) -> Iterator[bool]:
        """Yields whether the server can run a command with that environment; it then waits for this caller."""
        # A fork of the test's process has the socket too, but may not use it: the two would mix up their answers.
        fits = os.getpid() == self._pid and _settings(environment) == self._settings
        if not fits or not self._busy.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            self._busy.release()

    def run(
        self, arguments: Sequence[str], folder: Path, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as ``subprocess.run`` would; raises ``TimeoutExpired`` once it has killed it."""
        mask = os.umask(0)
        os.umask(mask)
        message = json.dumps([list(arguments), str(folder), environment, mask]).encode("ascii")
        out, err = os.pipe(), os.pipe()
        with open(out[0], "rb") as output, open(err[0], "rb") as errors, open(os.devnull, "rb") as nothing:
            try:
                socket.send_fds(self._socket, [message], [nothing.fileno(), out[1], err[1]])
            finally:
                os.close(out[1])
                os.close(err[1])
            pid = self._number()
            try:
                texts = _read_both(output.fileno(), errors.fileno(), time.monotonic() + timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._number()
                raise subprocess.TimeoutExpired(["batchdiff", *arguments], timeout) from None
        code = os.waitstatus_to_exitcode(self._number())
        return subprocess.CompletedProcess(["batchdiff", *arguments], code, *texts)

    def _number(self) -> int:
        """Waits for the next answer."""
        number: int = _NUMBER.unpack(self._socket.recv(_NUMBER.size))[0]
        return number

    def close(self) -> None:
        self._socket.close()
        if os.getpid() == self._pid:
            self._process.wait()


@functools.cache
def fork_server() -> ForkServer:
    """The server of this process, which its first command starts."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def _settings(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_BY_PYTHON)}


def _read_both(output: int, errors: int, deadline: float) -> list[str]:
    """Reads two pipes until both are at their end; raises ``TimeoutError``."""
    parts: dict[int, list[bytes]] = {output: [], errors: []}
    with selectors.DefaultSelector() as selector:
        for pipe in parts:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _events in ready:
                data = os.read(key.fd, 1 << 16)
                parts[key.fd].append(data)
                if not data:
                    selector.unregister(key.fd)
    # As text=True reads it.
    return [b"".join(part).decode().replace("\r\n", "\n").replace("\r", "\n") for part in parts.values()]


def _serve(control: socket.socket) -> None:
    """Forks for each command that comes, and in the fork returns; ends with whoever sends them."""
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, _LONGEST_MESSAGE, 3)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            return _become(descriptors, *json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(_NUMBER.pack(pid))
        control.send(_NUMBER.pack(os.waitpid(pid, 0)[1]))


def _become(
    descriptors: list[int], arguments: list[str], folder: str, environment: dict[str, str], mask: int
) -> None:
    """Makes this process what a new interpreter would be in that folder and environment."""
    gc.unfreeze()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.umask(mask)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv[1:] = arguments
    sys.orig_argv[1:] = ["-m", "batchdiff", *arguments]
    sys.stdin = open(0, encoding=sys.stdin.encoding)  # noqa: SIM115  # until the process ends, as the others
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115


def _load_all() -> None:
    """Imports what any command may import, apart from modules for which an optional library is missing."""
    for module in pkgutil.walk_packages(batchdiff.__path__, "batchdiff."):
        try:
            importlib.import_module(module.name)
        except (ModuleNotFoundError, UsageError) as error:  # UsageError: of --scheduler, which needs Dask
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            if not isinstance(missing, ModuleNotFoundError) or str(missing.name).startswith("batchdiff"):
                raise


if __name__ == "__main__":
    del sys.path[0]  # the folder of the tests: batchdiff does not see it
    sys.path.insert(0, "")
    _load_all()
    gc.collect()
    gc.freeze()  # so that no fork copies what it never touches
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from batchdiff.__main__ import main

    try:
        main()
    except SystemExit as ending:
        sys.stdout.flush()
        os._exit(ending.code)  # taking the interpreter down would cost more than most commands
