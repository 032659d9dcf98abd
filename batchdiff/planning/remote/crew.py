"""The workers of a scheduler: before a worker gets tasks of a job, it must answer three questions.

::

    asked about its Python -> its batchdiff -> its files -> admitted
                '----------------'---------------'-> refused, with the reason
"""

from __future__ import annotations

import enum
import pkgutil
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple

from distributed import CancelledError, Client, Future

from batchdiff import __version__
from batchdiff.errors import WorkerError
from batchdiff.planning.remote.by_name import sent, submit, submit_call, there
from batchdiff.planning.remote.heartbeats import LONGEST_SILENCE, Heartbeats
from batchdiff.planning.remote.resident_job import objection_here
from batchdiff.planning.scan.executor import RemoteJob, Result, Task

LOOK_AGAIN = 2.0
"""The minimum number of seconds between two checks of the workers."""

FETCHED_AFTER = 10.0
"""Seconds to wait for a finished result: if it is late, its worker is probably gone."""

_SLOW = 30.0

_HUNG = 60.0
"""Seconds after which a scheduler that does not answer counts as gone."""

CONTINUE = "No plan was written. Run the same command again, with --scheduler or without it."


_ITS_RANGES = "; its unfinished ranges are left to others"


class _Question(enum.Enum):
    """The questions to a worker, in this order.

    Only the last one needs the job, which another version of Python or batchdiff may be unable to unpickle.
    """

    PYTHON = "its Python"
    VERSION = "its batchdiff"
    FILES = "its files"


class _Asked(NamedTuple):
    worker: str
    question: _Question
    since: float


@dataclass(slots=True)
class Crew(Generic[Task, Result]):
    """The workers of a job by address: admitted, being asked, or refused with the reason.

    ``announced``: those reported to the operator as admitted, perhaps to an earlier job.
    """

    client: Client
    job: RemoteJob[Task, Result]
    say: Callable[[str], None]
    warn: Callable[[str], None]
    announced: set[str]
    admitted: set[str] = field(default_factory=set)
    asked: dict[Future, _Asked] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _ever_admitted: bool = False
    _slow: set[str] = field(default_factory=set)
    _silent: set[str] = field(default_factory=set)
    _heartbeats: Heartbeats = field(default_factory=Heartbeats)
    _next_look: float = 0

    @property
    def is_hopeless(self) -> bool:
        """True if workers are refused, and none was ever admitted."""
        return bool(self.refused) and not self._ever_admitted

    def look(self) -> None:
        """Note lost and slow workers, and ask new ones; do nothing if called again within ``LOOK_AGAIN`` seconds.

        :raises OSError: the scheduler does not answer.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_AGAIN
        present = self._present()
        for worker in sorted(self.admitted - present - self._silent):
            self.warn(f"the worker {worker} is gone{_ITS_RANGES}")
        self.admitted &= present
        self.refused = {worker: reason for worker, reason in self.refused.items() if worker in present}
        for future, asked in list(self.asked.items()):
            if asked.worker not in present:
                del self.asked[future]
            elif asked.worker not in self._slow and time.monotonic() > asked.since + _SLOW:
                self._slow.add(asked.worker)
                self.warn(f"the worker {asked.worker} does not answer: it is busy, or its storage hangs")
        known = self.admitted | self.refused.keys() | {asked.worker for asked in self.asked.values()}
        for worker in sorted(present - known):
            self._ask(worker, _Question.PYTHON)

    def _present(self) -> set[str]:
        """Return the workers except silent ones, and warn of those that have fallen silent."""
        # Client.scheduler_info() would wait forever for a scheduler that hangs.
        found = self.client.sync(self.client.scheduler.identity, callback_timeout=_HUNG)["workers"]
        last_seen = {worker: each["last_seen"] for worker, each in found.items()}
        silent = self._heartbeats.silent(last_seen, time.monotonic())
        for worker in sorted(silent - self._silent):
            its_ranges = _ITS_RANGES if worker in self.admitted else ""
            self.warn(
                f"the worker {worker} has not reported for {LONGEST_SILENCE:.0f} seconds: its process or its host"
                f" is frozen, or cut off{its_ranges}"
            )
        self._silent = silent
        return set(last_seen) - silent

    def _ask(self, worker: str, question: _Question) -> None:
        match question:
            case _Question.PYTHON:
                future = submit(self.client, worker, platform.python_version)
            case _Question.VERSION:
                future = submit(self.client, worker, pkgutil.resolve_name, "batchdiff:__version__")
            case _Question.FILES:
                job = sent(self.client, worker, self.job)
                function = there(self.client, worker, objection_here)
                future = submit_call(self.client, worker, function, job)
        self.asked[future] = _Asked(worker, question, time.monotonic())

    def hear(self, future: Future) -> None:
        """Act on a worker's answer."""
        worker, question, _ = self.asked.pop(future)
        if future.status == "error":
            self._refuse(worker, _failure(question, future.exception()))
            return
        try:
            answer = future.result(timeout=FETCHED_AFTER)
        except (TimeoutError, CancelledError):  # the worker is probably gone; otherwise look() asks it again
            return
        following = iter(list(_Question)[list(_Question).index(question) + 1 :])
        if reason := _objection(question, answer):
            self._refuse(worker, reason)
        elif (after := next(following, None)) is not None:
            self._ask(worker, after)
        else:
            self.admitted.add(worker)
            self._ever_admitted = True
            if worker not in self.announced:
                self.announced.add(worker)
                self.say(f"The worker {worker} sees the same files, and takes part.")

    def _refuse(self, worker: str, reason: str) -> None:
        self.refused[worker] = reason
        self.warn(f"the worker {worker} is left out: {reason}")

    def error(self) -> WorkerError:
        """Return the error to raise when no worker can do the tasks."""
        if self._ever_admitted:
            why = "the last worker that took part died, froze or left, and no other has taken its place"
            return WorkerError("the scan ran out of workers", why=why, remedy=CONTINUE)
        if self.refused:
            why = "; ".join(f"{worker}: {reason}" for worker, reason in list(self.refused.items())[:3])
            remedy = "Fix the cause for at least one worker, or plan without --scheduler."
            return WorkerError("none of the scheduler's workers can scan these images", why=why, remedy=remedy)
        remedy = "Start some with `dask worker` and this scheduler's address (docs/many-hosts.md)."
        return WorkerError("the scheduler has no workers that answer", remedy=remedy)


def _objection(question: _Question, answer: str) -> str:
    ours = platform.python_version()
    match question:
        case _Question.PYTHON if answer.split(".")[:2] != ours.split(".")[:2]:
            return f"it runs Python {answer}, but the planner runs {ours} (use the same version on all hosts)"
        case _Question.VERSION if answer != __version__:
            versions = f"it has batchdiff {answer}, but the planner has {__version__}"
            return f"{versions} (install the same version on all hosts)"
        case _Question.FILES:
            return answer
    return ""


def _failure(question: _Question, error: BaseException) -> str:
    if question is _Question.VERSION and isinstance(error, ImportError):
        return f"it cannot import batchdiff ({error}); install the same version there as on the planner's host"
    words = str(error)
    if isinstance(error, OSError) and error.strerror:
        # Not examined any further: the file is on the worker's host.
        words = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    shown = f" ({words})" if words else ""
    return f"it failed when asked about {question.value}{shown}; see its log for the cause"
