"""The executor that gives tasks to the workers of a Dask scheduler.

::

    worker appears -> crew.py -> admitted -> gets tasks, one in advance -> results
                        |            '- if it dies, others get its tasks
                        '-> left out, with the reason

The client has threads until it is closed, so this process must not fork before then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, cast

from distributed import CancelledError, Client, Future, KilledWorker
from distributed import wait as wait_for_futures

from batchdiff.errors import WorkerError
from batchdiff.planning.remote.by_name import sent, submit_call, there
from batchdiff.planning.remote.crew import CONTINUE, FETCHED_AFTER, LOOK_AGAIN, Crew
from batchdiff.planning.remote.resident_job import ResidentJob, answer_to, result_of
from batchdiff.planning.scan.executor import RemoteExecutor, RemoteJob, Result, Task

_AHEAD = 2
"""The maximum number of tasks that a worker has at a time, so that it need not wait for the next one."""

_MOST_DEATHS = 4
"""The scan fails if this many workers are lost during one task; Dask's default limit is the same."""


class DaskWorkers:
    """The workers of a Dask scheduler.

    ``patience``: seconds to wait for a worker if none takes part.
    """

    def __init__(
        self, client: Client, *, say: Callable[[str], None], warn: Callable[[str], None], patience: float = 30.0
    ) -> None:
        self._client = client
        self._say, self._warn = say, warn
        self._patience = patience
        self._announced: set[str] = set()
        self._is_closed = False

    def __call__(self, job: RemoteJob[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Run the tasks: see :class:`~batchdiff.planning.scan.executor.RemoteExecutor`."""
        crew = Crew(self._client, job, self._say, self._warn, self._announced)
        work = _Work(self._client, job, iter(tasks))
        last_seen = time.monotonic()
        try:
            crew.look()
            if not crew.asked:
                self._say(f"The scheduler has no workers yet; waiting up to {self._patience:.0f} seconds for one.")
            while not work.is_done:
                crew.look()
                if crew.admitted:
                    last_seen = time.monotonic()
                    work.submit(crew.admitted)
                elif not crew.asked and (crew.is_hopeless or time.monotonic() > last_seen + self._patience):
                    raise crew.error()
                for future in self._finished([*work.pending, *crew.asked]):
                    if future in crew.asked:
                        crew.hear(future)
                    else:
                        yield from work.take(future)
        except (OSError, TimeoutError) as error:  # of the connection: a task's own errors come as values
            raise _lost(str(error)) from error
        finally:
            work.cancel()

    def _finished(self, futures: list[Future]) -> list[Future]:
        if not futures:
            time.sleep(min(LOOK_AGAIN, self._patience))
            return []
        with self._client.as_current(), suppress(TimeoutError, CancelledError):
            wait_for_futures(futures, timeout=LOOK_AGAIN, return_when="FIRST_COMPLETED")
        if self._client.status != "running":
            raise _lost("the connection to it was lost")
        return [future for future in futures if future.done()]

    def close(self) -> None:
        """Close the connection; the workers then close their images."""
        if not self._is_closed:
            self._is_closed = True
            self._client.close(timeout=5)


_: type[RemoteExecutor] = DaskWorkers


@dataclass(slots=True)
class _Pending(Generic[Task]):
    """A task, and the worker that last had it; empty if no worker has had it."""

    task: Task
    worker: str
    deaths: int = 0


@dataclass(slots=True)
class _Work(Generic[Task, Result]):
    """The unfinished tasks of a job.

    Each task is assigned to one worker: Dask would give most tasks to workers that already have the job.
    """

    client: Client
    job: RemoteJob[Task, Result]
    to_come: Iterator[Task]
    pending: dict[Future, _Pending[Task]] = field(default_factory=dict)
    _again: list[_Pending[Task]] = field(default_factory=list)
    _resident: dict[str, tuple[Future, Future]] = field(default_factory=dict)
    _is_exhausted: bool = False

    @property
    def is_done(self) -> bool:
        return self._is_exhausted and not self.pending and not self._again

    def submit(self, workers: set[str]) -> None:
        """Give tasks to ``workers``, after taking back those of all other workers.

        :raises WorkerError: too many workers were lost during one task.
        """
        self._take_back(workers)
        load = Counter(pending.worker for pending in self.pending.values())
        for ahead in range(_AHEAD):
            for worker in sorted(workers):
                if load[worker] > ahead:
                    continue
                following = self._again.pop() if self._again else self._next()
                if following is None:
                    return
                function, job = self._job_at(worker)
                future = submit_call(self.client, worker, function, job, following.task)
                self.pending[future] = _Pending(following.task, worker, following.deaths)
                load[worker] += 1

    def _next(self) -> _Pending[Task] | None:
        for task in self.to_come:
            return _Pending(task, "")
        self._is_exhausted = True
        return None

    def _take_back(self, workers: set[str]) -> None:
        """Take back the tasks of all workers but ``workers``: Dask would wait for lost workers to return."""
        for worker in sorted({pending.worker for pending in self.pending.values()} - workers):
            self._take_all_from(worker)

    def _take_all_from(self, worker: str) -> None:
        """Take back a lost worker's tasks; only the first unfinished one counts as in progress."""
        self._resident.pop(worker, None)
        taken = {future: pending for future, pending in self.pending.items() if pending.worker == worker}
        in_progress = next((pending for future, pending in taken.items() if future.status != "finished"), None)
        for future in taken:
            future.cancel()
            del self.pending[future]
        if in_progress is not None:
            in_progress.deaths += 1
            if in_progress.deaths >= _MOST_DEATHS:
                raise self._killed(in_progress, _MOST_DEATHS)
        self._again += taken.values()

    def _job_at(self, worker: str) -> tuple[Future, Future]:
        if worker not in self._resident:
            job = sent(self.client, worker, ResidentJob(self.job))
            self._resident[worker] = there(self.client, worker, answer_to), job
        return self._resident[worker]

    def take(self, future: Future) -> Iterator[Result]:
        """Yield the result of a finished future, if it can still be had.

        :raises WorkerError: workers failed or were lost.
        :raises BatchdiffError: the task raised it.
        :raises RuntimeError: any other error ended the task.
        """
        pending = self.pending.get(future)
        if pending is None:  # it was taken back a moment ago, with another task of its worker
            return
        if future.status == "error":
            failure = future.exception()
            if isinstance(failure, KilledWorker):
                raise self._killed(pending, failure.allowed_failures + 1)
            what = f"a Dask worker failed while {self.job.describe(pending.task)}"
            raise WorkerError(what, why=repr(failure), remedy=CONTINUE)
        try:
            answer = future.result(timeout=FETCHED_AFTER)
        except CancelledError:  # its worker, or the job in that worker's memory, was lost
            self._take_all_from(pending.worker)
            return
        except TimeoutError:  # perhaps its worker died with the result: the task stays pending
            return
        del self.pending[future]
        try:
            yield cast("Result", result_of(answer))
        except MemoryError as error:
            raise WorkerError(
                f"a Dask worker ran out of memory while {self.job.describe(pending.task)}",
                remedy=f"Start fewer workers on each host, or free some memory. {CONTINUE}",
            ) from error

    def _killed(self, pending: _Pending[Task], deaths: int) -> WorkerError:
        doing = self.job.describe(pending.task)
        several = f"{deaths} Dask workers died, froze or were cut off, each while {doing}"
        return WorkerError(
            several if deaths > 1 else f"a Dask worker died, froze or was cut off while {doing}",
            why="memory ran out, a user killed a worker, or a host or the network failed",
            remedy=f"See the workers' logs. {CONTINUE}",
        )

    def cancel(self) -> None:
        if self.client.status == "running":
            self.client.cancel(list(self.pending), force=True)
        self._resident.clear()


def _lost(why: str) -> WorkerError:
    return WorkerError(
        "the Dask scheduler no longer answers",
        why=why.rstrip("."),
        remedy=f"See its log, and if the scheduler has ended, start it again. {CONTINUE}",
    )
