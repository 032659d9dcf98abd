"""A job in a worker's memory: it begins with its first task, and ends when it is released.

::

    scheduler   keeps the job for its planner -- planner done, killed or cut off: released --.
    worker      ResidentJob  -- do(task), do(task), ...                                      '-> images closed

Dask keeps the object until the planner releases it or disconnects, so no other code has to close the images.
Errors are returned as values: Dask would log raised ones as bugs.
"""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeAlias

from distributed.worker import get_worker, thread_state

from batchdiff.errors import BatchdiffError, StopError
from batchdiff.planning.scan.executor import RemoteJob, Result, Task

Answer: TypeAlias = tuple[bool, object]
"""True and the result of a task, or False and the error that ended it."""

_one_at_a_time = threading.Lock()
"""Held during a task: limits on rate and page cache apply to the whole process (docs/many-hosts.md)."""


class ResidentJob(Generic[Task, Result]):
    """A job; an unpickled copy begins anew."""

    def __init__(self, job: RemoteJob[Task, Result]) -> None:
        self._job = job
        self._begun = ExitStack()
        self._do: Callable[[Task], Result] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return ResidentJob, (self._job,)

    def do(self, task: Task) -> Result:
        """Do a task as soon as no other is in progress in this process.

        :raises StopError: the task is no longer wanted.
        :raises BatchdiffError: the job or the task raised it.
        """
        with _one_at_a_time:
            _check_wanted()
            self._do = self._do or self._begun.enter_context(self._job.begin(_check_wanted))
            return self._do(task)

    def __del__(self) -> None:
        self._begun.close()


def _check_wanted() -> None:
    """Raise StopError if the planner has taken back the task, or has disconnected."""
    task = get_worker().state.tasks.get(thread_state.key)
    if task is None or task.state == "cancelled":
        raise StopError("the task is no longer wanted")


def answer_to(resident: ResidentJob[Task, Result], task: Task) -> Answer:
    """Do a task, and return its result or the error that ended it."""
    try:
        return True, resident.do(task)
    except BatchdiffError as error:
        return False, copy.copy(error)  # without its traceback, which would keep the job in memory
    except MemoryError as error:
        return False, MemoryError(str(error))
    except Exception:  # a bug: the planner shows it with the worker's traceback
        return False, RuntimeError(f"in a Dask worker:\n{traceback.format_exc()}")


def result_of(answer: Answer) -> object:
    """Return the result of a task, or raise the error that ended it.

    :raises BatchdiffError: the task raised it.
    :raises MemoryError: the worker had too little memory.
    :raises RuntimeError: any other error ended the task.
    """
    succeeded, value = answer
    if isinstance(value, Exception) and not succeeded:
        raise value
    return value


def objection_here(job: RemoteJob[Task, Result]) -> str:
    """Return why this worker cannot do the tasks of a job; empty if it can."""
    try:
        return job.objection()
    except BatchdiffError as error:
        return error.reason
