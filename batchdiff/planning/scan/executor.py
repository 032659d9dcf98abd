"""The contract between a job and its executor.

::

    planner    job, tasks -->  executor  -->  worker:  job.begin() -> do(task), do(task), ... -> end
                               executor  -->  worker:  job.begin() -> do(task), ...
               results    <--  in the order in which they are finished

Tasks, results, and jobs for other hosts can be pickled: they contain no closures or open files. Forked workers
share the planner's rate limit, progress and QEMU exports. Workers on other hosts have a rate limit each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Job(Protocol[Task_contra, Result_co]):
    """Tasks of one kind, and all that a worker needs to do them."""

    def begin(self) -> AbstractContextManager[Callable[[Task_contra], Result_co]]:
        """Open what the tasks need, and yield the function that does a task."""

    def describe(self, task: Task_contra) -> str:
        """Describe a task, such as "scanning bytes 0 to 100"."""


class RemoteJob(Job[Task_contra, Result_co], Protocol):
    """A job for hosts that may not see the same files as the planner."""

    def begin(
        self, check: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Callable[[Task_contra], Result_co]]:
        """Begin; ``check``, called before each read, raises if the result is no longer wanted."""

    def objection(self) -> str:
        """Return why the worker that calls this cannot do the tasks; empty if it can."""


class Executor(Protocol):
    """A function that runs the tasks of a job."""

    def __call__(self, job: Job[Task, Result], tasks: Iterable[Task], *, workers: int) -> Iterator[Result]:
        """Yield the results in the order in which they are finished.

        :raises WorkerError: a worker cannot start, or fails.
        :raises BatchdiffError: a task raised it.
        """


class RemoteExecutor(Protocol):
    """An executor whose workers are on other hosts; it keeps its connection until it is closed."""

    def __call__(self, job: RemoteJob[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in the order in which they are finished.

        :raises WorkerError: the workers cannot finish the tasks.
        :raises BatchdiffError: a task raised it.
        """

    def close(self) -> None:
        """Close the connection. Afterwards, this process may fork again."""
