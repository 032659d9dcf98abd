"""PLAN.partial: the results of an unfinished scan, from which it can be resumed.

It is only a cache: a plan can be made without it. Appended records survive the planner's death; a power cut may
lose the latest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed
from batchdiff.planning.checkpoint.file import CheckpointFile
from batchdiff.planning.checkpoint.records import CHECKPOINT_MAGIC, Binding, Guests, Record, encode_record
from batchdiff.planning.scan.results import RangeResult

_BEGIN_AFTER = 2.0
"""Seconds before a new file is created: a shorter scan is cheap to repeat."""

_SYNC_EVERY = 5.0
"""The least number of seconds between two syncs of the file."""


class Checkpoint:
    """The checkpoint of a plan."""

    def __init__(self, plan_path: str, *, warn: Callable[[str], None], begin_after: float = _BEGIN_AFTER) -> None:
        self.path = f"{plan_path}.partial"
        self._warn = warn
        self._begin = time.monotonic() + begin_after
        self._synced = time.monotonic()
        self._pending: list[bytes] = []
        self._file: CheckpointFile | None = None
        self._usable = True

    @property
    def is_kept(self) -> bool:
        """True if the file has all results so far."""
        return self._usable and self._file is not None and self._file.end > 0

    def load(self, binding: str) -> list[Record]:
        """Lock the file and return the records after its binding.

        Return no records if there is no file, or if it has another binding or cannot be used.
        """
        self._pending = [CHECKPOINT_MAGIC, encode_record(Binding(binding))]
        try:
            self._file = CheckpointFile(self.path, create=False)
            records = self._file.records()
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._give_up(error)
            self.close()  # the file may not be ours, so discard() must not remove it
            return []
        if records[:1] == [Binding(binding)]:
            self._pending = []
            return records[1:]
        self._file.end = 0
        self._warn(
            f"the checkpoint {self.path} is not used: it is damaged, or was written for another state of the"
            " template or by another version of batchdiff"
        )
        return []

    def begin(self, guests: tuple[str, ...]) -> None:
        """Record the keys of the guests to which the next results refer, in the order of their numbers."""
        if self._usable:
            self._pending.append(encode_record(Guests(guests)))

    def add(self, result: RangeResult) -> None:
        """Record the result of a range if the file can be used."""
        if self._usable:
            self._pending.append(encode_record(result))
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
        """Warn and write no more. An open file stays open, so that :meth:`discard` can remove it."""
        self._usable = False
        is_begun = self._file is not None and self._file.end > 0
        why = f"{self.path} cannot be used: {error}"
        if isinstance(error, OSError):
            deed = Deed.WRITE if os.path.lexists(self.path) else Deed.CREATE
            why = reason(error, deed, self.path)
        what = "only its earlier results are kept" if is_begun else "it cannot be resumed"
        self._warn(f"if this scan is interrupted, {what}, because {why}")

    def discard(self) -> None:
        """Remove and close the file if it is open."""
        if self._file is None:
            return
        try:
            self._file.discard()
        except OSError as error:
            why = reason(error, Deed.DELETE, self.path)
            self._warn(f"could not remove {self.path}: {why}; you can delete it yourself")
        self._pending = []
        self.close()

    def close(self) -> None:
        """Close and unlock the file if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None
