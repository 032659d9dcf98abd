"""PLAN.journal, a record of what was done: one JSON object per line, on disk before the next step.

A writer locks the file; readers take no lock.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import stat
from dataclasses import asdict, replace
from typing import Any

from batchdiff.applying.journal.records import BEGIN, CHANGED, FAILED, PROTECTING, GuestState, History
from batchdiff.errors import PlanError
from batchdiff.files.atomic_write import sync_folder
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.files.own_documents import LARGEST_DOCUMENT
from batchdiff.files.read_write import write_all
from batchdiff.linux.call_failures import AGAIN, explain, naming
from batchdiff.linux.permissions import Deed
from batchdiff.plan.file import read_regular
from batchdiff.units import format_size

_BEGINNING = b'{"time": "'


_RECOVERED = "The records are then recovered, as far as the template's sidecar and the files show them."
_MOVE_AWAY = f"Move the journal away, {AGAIN} {_RECOVERED}"


class Journal:
    """The journal of one plan, locked and open for appending.

    Each ``record`` method returns once its line is on disk, and raises OSError if it cannot be written.

    :raises PlanError: the journal is locked, or cannot be used.
    """

    def __init__(self, plan_path: str, checksum: str) -> None:
        self.path = f"{plan_path}.journal"
        self._fd = lock_journal(self.path)
        self.history = History()
        self._fault: OSError | None = None
        try:
            if not self._resume(checksum):
                self._append({"step": BEGIN, "plan": checksum})
                sync_folder(os.path.dirname(os.path.abspath(self.path)))
        except OSError as error:
            self.close()
            fault = explain(error, Deed.WRITE, self.path)
            raise PlanError(f"cannot use the journal {self.path}", why=fault.why, remedy=fault.remedy) from error
        except BaseException:
            self.close()
            raise

    def _resume(self, checksum: str) -> bool:
        """Read the lines of this plan, and return False if there are none; set another plan's journal aside."""
        data = _content(self._fd, self.path)
        whole = data[: data.rfind(b"\n") + 1]
        if data and not data.startswith(_BEGINNING[: len(data)]):
            raise PlanError(
                f"{self.path} is not a journal",
                why="it does not start like one",
                remedy=f"That name is reserved for the plan's journal: move the file away, {AGAIN}",
            )
        number = 0
        try:
            for number, line in enumerate(whole.splitlines(), 1):
                record = json.loads(line)
                if number == 1 and record["plan"] != checksum:
                    self._start_again()
                    return False
                self.history.take_in(record)
            # If a crash has cut the last line short, the next record must not be appended to it.
            if len(whole) < len(data):
                os.ftruncate(self._fd, len(whole))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PlanError(
                f"{self.path} is damaged",
                why=f"line {number} is not a batchdiff record",
                remedy=_MOVE_AWAY,
            ) from error
        return number > 0

    def _start_again(self) -> None:
        set_aside(self.path)
        older, self._fd = self._fd, lock_journal(self.path)
        os.close(older)

    def state(self, guest: str) -> GuestState | None:
        """See :meth:`History.under_way`."""
        return self.history.under_way(guest)

    def record(self, guest: str, state: GuestState) -> None:
        """Record a step of a guest."""
        self._append({"guest": guest} | state.record())

    def record_failure(self, guest: str, reason: str) -> None:
        """Record why a guest failed."""
        self._append({"guest": guest, "step": FAILED, "reason": reason})

    def record_protecting(self) -> None:
        """Record that the template's write bits will be removed, in case the new ctime is never recorded."""
        self._append({"step": PROTECTING})

    def record_changed(self, file: Fingerprint) -> None:
        """Record the fingerprint of a file whose ctime batchdiff changed."""
        self._append({"step": CHANGED, "file": asdict(file)})

    def _append(self, record: dict[str, Any]) -> None:
        if self._fault is not None:
            raise self._fault
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"time": now} | record
        line = json.dumps(record) + "\n"
        end = os.fstat(self._fd).st_size
        try:
            with naming(self.path):
                write_all(self._fd, line.encode("ascii"), end)
                self._sync()
        except BaseException:
            # With half a line in the middle, the journal would count as damaged.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, end)
            raise
        self.history.take_in(record)

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            # A second fsync may succeed although some pages never reached the disk, so record nothing further.
            self._fault = error
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class MemoryJournal:
    """The journal, in memory only, of a command that changes nothing."""

    def __init__(self, history: History) -> None:
        self.history = history

    def state(self, guest: str) -> GuestState | None:
        """See :meth:`Journal.state`."""
        return self.history.under_way(guest)

    def record(self, guest: str, state: GuestState) -> None:
        """Fail."""
        raise AssertionError(f"{guest} was taken to {state.step} by a read-only command")

    def record_failure(self, guest: str, reason: str) -> None:
        """Do nothing."""

    def record_protecting(self) -> None:
        """Fail."""
        raise AssertionError("a read-only command changed the template's mode")

    def record_changed(self, file: Fingerprint) -> None:
        """Keep the fingerprint for this command."""
        self.history.changed.add(file)


def read_history(plan_path: str, checksum: str) -> History:
    """Read a plan's journal without locking it; return an empty history if it is missing or another plan's.

    :raises PlanError: it cannot be used. An empty history would then hide what was converted.
    """
    history, path, is_damaged = History(), f"{plan_path}.journal", False
    try:
        lines = read_regular(path, LARGEST_DOCUMENT).splitlines(keepends=True)
    except FileNotFoundError:
        return history
    except ValueError as error:
        raise _unusable(path, str(error)) from error
    except OSError as error:
        fault = explain(error, Deed.READ, path)
        raise PlanError(f"cannot read the journal {path}", why=fault.why, remedy=fault.remedy) from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # a crash cut it short: it does not count, and is not damage
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            if number == 0 and record["plan"] != checksum:
                return history
            history.take_in(record)
        except (ValueError, KeyError, TypeError, RecursionError):
            is_damaged = True
    return replace(history, is_damaged=is_damaged)


def _content(fd: int, path: str) -> bytes:
    """Read the whole journal: lines that were not read would be removed as if they were half a line."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise _unusable(path, "it is not a regular file")
    if info.st_size > LARGEST_DOCUMENT:
        raise _unusable(path, f"it is larger than {format_size(LARGEST_DOCUMENT)}")
    found = bytearray()
    while piece := os.pread(fd, info.st_size - len(found), len(found)):
        found += piece
    return bytes(found)


def _unusable(path: str, why: str) -> PlanError:
    return PlanError(f"cannot use the journal {path}", why=why, remedy=_MOVE_AWAY)


def set_aside(path: str) -> None:
    """Append the mtime of a locked journal, in nanoseconds, to its name.

    :raises OSError: it cannot be renamed.
    """
    os.rename(path, f"{path}.{os.stat(path, follow_symlinks=False).st_mtime_ns}")


def lock_journal(path: str) -> int:
    """Open or create a journal, and lock it; return its descriptor.

    :raises PlanError: it is locked, or cannot be used.
    """
    while True:
        fd = _opened(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise PlanError(
                "another batchdiff command for this plan is running",
                why=f"it has locked {path}",
                remedy=f"Wait until it has finished, {AGAIN}",
            ) from error
        except OSError as error:
            os.close(fd)
            fault = explain(error, Deed.WRITE, path)
            raise PlanError(f"cannot lock the journal {path}", why=fault.why, remedy=fault.remedy) from error
        # The last holder of the lock may have renamed or removed the journal.
        if _is_at(path, fd):
            return fd
        os.close(fd)


def _opened(path: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with contextlib.suppress(FileNotFoundError):
            # In a folder such as /tmp, not even root can open another user's file with O_CREAT
            # (protected_regular).
            return os.open(path, flags)
        # The umask decides who can read the journal, as with a new plan: `status` needs both files.
        return os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as error:
        fault = explain(error, Deed.WRITE if os.path.lexists(path) else Deed.CREATE, path)
        raise PlanError(f"cannot open the journal {path}", why=fault.why, remedy=fault.remedy) from error


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
