"""Processes that die right after any of their changes to a disk, in this very process: nothing is cleared up.

::

    with crashing(folder, 3) as changes:      dies after the third change
        stage.apply()
    changes                                   what it had done: ["journal", "temporary", "journal"]

A change is a line of the journal, a file that is made, renamed or unlinked, or write bits that are taken. Once
dead, a process changes nothing: all further calls fail. SIGKILL between any two system calls leaves one of these
states, but for half-written files; what a power cut leaves is asked in tests/faults.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchdiff.applying import pipeline
from batchdiff.applying.journal.file import Journal
from batchdiff.applying.swap import retire as retiring


class CrashError(BaseException):
    """The process is dead."""


class Life:
    """Counts the changes that a process makes, and ends it after some number of them."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder, self.last = str(folder), last
        self.changes: list[str] = []

    def tick(self, what: str) -> None:
        self.changes.append(what)
        self._require_alive()

    def _require_alive(self) -> None:
        if self.last is not None and len(self.changes) >= self.last:
            raise CrashError

    def counted(self, call: Callable[..., Any], what: Callable[..., str]) -> Callable[..., Any]:
        """The call, after which this process may be dead; ``what`` gives no name if it changes nothing."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            name = what(*arguments, **options)
            if not name:
                return call(*arguments, **options)
            self._require_alive()
            found = call(*arguments, **options)
            try:
                self.tick(name)
            except CrashError:
                if name == "temporary":
                    os.close(found)
                raise
            return found

        return wrapped

    def made(self, path: Any, flags: int = 0, *_: Any, **__: Any) -> str:
        mine = isinstance(path, str) and path.startswith(self.folder)
        return "temporary" if mine and flags & os.O_CREAT else ""


@contextlib.contextmanager
def crashing(folder: Path, last: int | None = None) -> Iterator[list[str]]:
    """Inside, a command dies after ``last`` changes, or never; afterwards its changes are known."""
    life = Life(folder, last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_append", life.counted(Journal._append, lambda *_: "journal"))
        rename = retiring.rename_without_replacing
        patch.setattr(retiring, "rename_without_replacing", life.counted(rename, lambda *_: "rename"))
        patch.setattr(os, "unlink", life.counted(os.unlink, lambda *_, **__: "unlink"))
        patch.setattr(os, "rename", life.counted(os.rename, lambda *_: "rename"))
        patch.setattr(os, "fchmod", life.counted(os.fchmod, lambda *_: "chmod"))
        patch.setattr(os, "open", life.counted(os.open, life.made))
        patch.setattr(os, "fsync", lambda _: None)  # how durable it is, tests/faults/test_durability.py asks
        patch.setattr(pipeline, "_undo", _lets_go)
        try:
            yield life.changes
        except CrashError:
            assert last is not None
        else:
            assert last is None or len(life.changes) < last, "a dead process went on"


def _lets_go(guest: Any) -> None:
    """What the kernel does for a dead process: its descriptors, locks and leases go, and nothing else."""
    if guest.verdict is not None:
        guest.verdict.exception()
    if guest.swap is not None:
        guest.swap.close()
