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
from batchdiff.model.plan_file import sync_folder


class Step(enum.StrEnum):
    """The steps of a guest, in their order."""

    CHECKED = "checked"
    WRITTEN = "written"
    VERIFIED = "verified"
    PUBLISHED = "published"
    RETIRED = "retired"
    FAILED = "failed"


_BEGIN, _PROTECTED = "begin", "protected"


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
        records = self._read()
        if records and records[0].get("plan") != checksum:
            records = self._start_again()
        self._standings: dict[str, Standing] = {}
        self._template: Fingerprint | None = None
        for record in records:
            self._take_in(record)
        if not records:
            self._append({"step": _BEGIN, "plan": checksum})
            sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines so far; a line that was cut is removed from the file."""
        size = os.fstat(self._fd).st_size
        data = os.pread(self._fd, size, 0)
        whole, newline, _ = data.rpartition(b"\n")
        os.ftruncate(self._fd, len(whole) + len(newline))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise PlanError(
                f"{self.path} is damaged",
                why=str(error),
                remedy="Look at what it and the folders of the guests hold before you remove it.",
            ) from error

    def _start_again(self) -> list[dict[str, Any]]:
        """Sets the journal of an older plan of that name aside."""
        os.rename(self.path, f"{self.path}.{os.fstat(self._fd).st_mtime_ns}")
        os.close(self._fd)
        self._fd = _locked(self.path)
        return []

    def standing(self, guest: str) -> Standing | None:
        """Where a guest stands; None where nothing was begun."""
        return self._standings.get(guest)

    @property
    def template(self) -> Fingerprint | None:
        """The template's fingerprint after its write bits went."""
        return self._template

    def record(self, guest: str, standing: Standing) -> None:
        """Notes a step of a guest; on disk when this returns."""
        self._append({"guest": guest} | {key: value for key, value in asdict(standing).items() if value})
        self._standings[guest] = standing

    def record_protected(self, template: Fingerprint) -> None:
        """Notes that the template lost its write bits, which changed its ctime."""
        self._append({"step": _PROTECTED, "template": asdict(template)})
        self._template = template

    def _append(self, record: dict[str, Any]) -> None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now} | record) + "\n"
        write_all(self._fd, line.encode("ascii"), os.fstat(self._fd).st_size)
        os.fsync(self._fd)

    def _take_in(self, record: dict[str, Any]) -> None:
        if record["step"] == _PROTECTED:
            self._template = Fingerprint(**record["template"])
        elif record["step"] != _BEGIN:
            overlay = record.get("overlay")
            self._standings[record["guest"]] = Standing(
                Step(record["step"]),
                record.get("temporary"),
                Fingerprint(**overlay) if overlay else None,
                record.get("original", ""),
            )

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._fd)


def noted_template(plan_path: str) -> Fingerprint | None:
    """The template's fingerprint after an apply of that plan took its write bits; None where none did."""
    try:
        with open(f"{plan_path}.journal", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return Fingerprint(**json.loads(line)["template"])
    return None


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
