"""What an apply has done so far: PLAN.journal, one JSON object a line, each on disk before the next step begins.

::

    {"step": "begin", "plan": "sha256:..."}
    {"step": "checked", "guest": "web01", "temporary": "/images/.web01.qcow2.4f1c09aa.batchdiff-tmp"}
    {"step": "written", ...}   {"step": "verified", ...}   {"step": "published", ...}   {"step": "retired", ...}

A lock on the file keeps two applies of one plan apart; it goes with the process that holds it. A last line
that was cut by a crash is dropped: its step had not begun to count.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from batchdiff.applying.writing import write_all
from batchdiff.errors import PlanError
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.model.plan_file import read_regular, sync_folder

_LARGEST = 1 << 30
"""A journal has about a kilobyte for each guest."""


class Step(enum.StrEnum):
    """The steps of a guest, in their order."""

    CHECKED = "checked"
    WRITTEN = "written"
    VERIFIED = "verified"
    PUBLISHED = "published"
    RETIRED = "retired"
    FAILED = "failed"


_BEGIN, _PROTECTING, _CHANGED = "begin", "protecting", "changed"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a guest stands: its last step, the temporary file, the overlay, and what became of the original."""

    step: Step
    temporary: str | None = None
    overlay: Fingerprint | None = None
    original: str = ""


class Journal:
    """The journal of one plan, locked and open for appending."""

    def __init__(self, plan_path: str, checksum: str) -> None:
        self.path = f"{plan_path}.journal"
        self._fd = _locked(self.path)
        self._standings: dict[str, Standing] = {}
        self._changed: set[Fingerprint] = set()
        self._protecting = False
        try:
            if not self._resume(checksum):
                self._append({"step": _BEGIN, "plan": checksum})
                sync_folder(os.path.dirname(os.path.abspath(self.path)))
        except OSError as error:
            self.close()
            raise PlanError(f"cannot use the journal {self.path}", why=error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise

    def _resume(self, checksum: str) -> bool:
        """Takes in what this plan's apply has done so far; False where there is nothing of it."""
        whole = self._whole_lines()
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            if records and records[0]["plan"] != checksum:
                self._start_again()
                return False
            for record in records:
                self._take_in(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PlanError(
                f"{self.path} is damaged",
                why=f"{type(error).__name__}: {error}",
                remedy="Look at what it and the folders of the guests hold before you remove it.",
            ) from error
        return bool(records)

    def _whole_lines(self) -> bytes:
        """The lines so far; one that was cut is removed from the file."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.ftruncate(self._fd, len(whole))
        return whole

    def _start_again(self) -> None:
        """Sets the journal of an older plan of that name aside."""
        os.rename(self.path, f"{self.path}.{os.fstat(self._fd).st_mtime_ns}")
        older, self._fd = self._fd, _locked(self.path)
        os.close(older)

    def standing(self, guest: str) -> Standing | None:
        """Where a guest stands; None where nothing was begun."""
        return self._standings.get(guest)

    @property
    def changed(self) -> frozenset[Fingerprint]:
        """The fingerprints of files after apply itself changed their ctime, and nothing else of them."""
        return frozenset(self._changed)

    def published(self) -> list[str]:
        """The guests whose overlays are in place."""
        return [name for name, at in self._standings.items() if at.step in {Step.PUBLISHED, Step.RETIRED}]

    @property
    def protecting(self) -> bool:
        """Whether an apply has begun to take the template's write bits."""
        return self._protecting

    def record(self, guest: str, standing: Standing) -> None:
        """Notes a step of a guest; on disk when this returns."""
        self._append({"guest": guest} | {key: value for key, value in asdict(standing).items() if value})
        self._standings[guest] = standing

    def record_protecting(self) -> None:
        """Notes that the template's write bits will go: what dies before the next note has changed its ctime."""
        self._append({"step": _PROTECTING})
        self._protecting = True

    def record_changed(self, file: Fingerprint) -> None:
        """Notes the fingerprint of a file whose ctime changed by what apply itself did to its name or mode."""
        self._append({"step": _CHANGED, "file": asdict(file)})
        self._changed.add(file)

    def _append(self, record: dict[str, Any]) -> None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now} | record) + "\n"
        end = os.fstat(self._fd).st_size
        try:
            write_all(self._fd, line.encode("ascii"), end)
            os.fsync(self._fd)
        except BaseException:
            # Half a line in the middle would make all of it unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, end)
            raise

    def _take_in(self, record: dict[str, Any]) -> None:
        if record["step"] == _CHANGED:
            self._changed.add(Fingerprint(**record["file"]))
        elif record["step"] == _PROTECTING:
            self._protecting = True
        elif record["step"] != _BEGIN:
            overlay = record.get("overlay")
            self._standings[record["guest"]] = Standing(
                Step(record["step"]),
                _path(record.get("temporary")),
                Fingerprint(**overlay) if overlay else None,
                record.get("original", ""),
            )

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._fd)


def _path(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith("/") and "\0" not in value):
        return value
    raise ValueError(f"{value!r} is no path")


@dataclass(frozen=True, slots=True)
class Notes:
    """What a journal says to those who only look: guests that are done, and files that apply itself changed."""

    published: frozenset[str] = frozenset()
    changed: frozenset[Fingerprint] = frozenset()


def read_notes(plan_path: str) -> Notes:
    """What the journal of a plan says now, without its lock; nothing where there is none, or none to be read."""
    try:
        lines = read_regular(f"{plan_path}.journal", _LARGEST).splitlines()
    except (OSError, ValueError):
        return Notes()
    steps: dict[str, str] = {}
    changed = set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            record = json.loads(line)
            if record["step"] == _CHANGED:
                changed.add(Fingerprint(**record["file"]))
            elif "guest" in record:
                steps[record["guest"]] = record["step"]
    done = {name for name, step in steps.items() if step in {Step.PUBLISHED, Step.RETIRED}}
    return Notes(frozenset(done), frozenset(changed))


def _locked(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PlanError(f"cannot open the journal {path}", why=error.strerror or str(error)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise PlanError(
            "another apply of this plan is running", why=f"it holds {path}", remedy="Wait until it is done."
        ) from error
    return fd
