"""Jobs for workers of Dask, which import them from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Deadly:
    """A job whose task 3 kills the worker that does it, as the kernel does if memory runs out."""

    def objection(self) -> str:
        return ""

    @contextmanager
    def begin(self, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[int], int]]:
        def do(task: int) -> int:
            check()
            if task == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return task

        yield do

    def describe(self, task: int) -> str:
        return f"doing task <{task}>"


class Failing(Deadly):
    """A job whose tasks fail in ways that workers report."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    @contextmanager
    def begin(self, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[int], int]]:
        def do(task: int) -> int:
            raise self.error("as asked")

        yield do


class Waiting(Deadly):
    """A job whose tasks wait in the kernel for the first byte of a FIFO, as a read does for a hung disk."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextmanager
    def begin(self, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[int], int]]:
        def do(task: int) -> int:
            with open(self.path, "rb", buffering=0) as file:
                return len(file.read(1))

        yield do
