"""PLAN.partial: what an unfinished scan has found, so that the same command goes on where it was stopped.

It is a cache and nothing more: whatever is wrong with it or its file costs time, never a plan. Records are
appended as ranges are done (a killed planner loses none that it wrote) and synced every few seconds (a power cut
loses those since). Removed when the plan is written.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from batchdiff.planning.checkpoint.file import CheckpointFile
from batchdiff.planning.checkpoint.records import MAGIC, Binding, Guests, Record, encoded
from batchdiff.planning.scan.one_range import RangeResult

_BEGIN_AFTER = 2.0
"""Seconds before a file is made: doing a shorter scan again costs nobody anything."""

_SYNC_EVERY = 5.0
"""Seconds of work that a power cut may cost."""

_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EEXIST}


class Checkpoint:
    """The checkpoint of the plan at ``plan_path``; ``warn`` is told where there is none to be had, and why."""

    def __init__(self, plan_path: str, *, warn: Callable[[str], None], begin_after: float = _BEGIN_AFTER) -> None:
        self.path = f"{plan_path}.partial"
        self._warn = warn
        self._begin = time.monotonic() + begin_after
        self._synced = time.monotonic()
        self._pending: list[bytes] = []
        self._file: CheckpointFile | None = None
        self._usable = True

    def load(self, binding: str) -> list[Record]:
        """What an earlier scan with exactly this binding found. Holds the file from now on, if there is one."""
        self._pending = [MAGIC, encoded(Binding(binding))]
        try:
            self._file = CheckpointFile(self.path, create=False)
            records = self._file.records()
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._give_up(error)
            return []
        if records[:1] == [Binding(binding)]:
            self._pending = []
            return records[1:]
        self._file.end = 0
        self._warn(
            f"what is in {self.path} is not used: it is damaged, or the template, or how scans are done, has"
            " changed since"
        )
        return []

    def begin(self, guests: tuple[str, ...]) -> None:
        """The results that follow are of these guests, in this order."""
        if self._usable:
            self._pending.append(encoded(Guests(guests)))

    def add(self, result: RangeResult) -> None:
        """Notes the result of a range, sooner or later."""
        if self._usable:
            self._pending.append(encoded(result))
            if self._file is not None or time.monotonic() >= self._begin:
                self._flush()

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = CheckpointFile(self.path, create=True)
            self._file.append(b"".join(self._pending))
            self._pending = []
            if time.monotonic() - self._synced >= _SYNC_EVERY:
                self._file.sync()
                self._synced = time.monotonic()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        self._usable = False
        self.close()
        why = str(error)
        if isinstance(error, OSError):
            taken = error.errno in _TAKEN
            why = "another `batchdiff plan` is using it" if taken else error.strerror or str(error)
        self._warn(f"if this scan is stopped, it cannot go on later where it was: {self.path}: {why}")

    def discard(self) -> None:
        """The plan is written: this is no longer needed."""
        if self._file is None:
            return
        try:
            self._file.discard()
        except OSError as error:
            self._warn(f"{self.path} could not be removed: {error.strerror or error}; you may remove it")
        self._pending = []
        self.close()

    def close(self) -> None:
        """Gives the file back; every result is in it, or there is none."""
        if self._file is not None:
            self._file.close()
            self._file = None
