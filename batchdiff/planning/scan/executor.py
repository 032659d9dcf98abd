"""The contract between a job and its executor, whose workers are forked or those of a Dask scheduler.

::

    planner    job, tasks -->  executor  -->  worker:  job.begin() -> do(task), do(task), ... -> end
                               executor  -->  worker:  job.begin() -> do(task), ...
               results    <--  in the order in which they are finished

Tasks and results, and jobs for other hosts, are values that can be pickled: no closures and no open files. A
worker opens the images itself, by their paths. Forked workers share the planner's rate limit, progress of ranges
and QEMU exports. Workers on other hosts have a rate limit of their own, and do not scan images that
QEMU exports or maps.
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
        """Open what the tasks need, once in each worker, and yield the function that does one task."""

    def describe(self, task: Task_contra) -> str:
        """Return what a worker does with a task, such as "scanning bytes 0 to 100"."""


class RemoteJob(Job[Task_contra, Result_co], Protocol):
    """A job for hosts that may not see the same files as the planner."""

    def begin(
        self, check: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Callable[[Task_contra], Result_co]]:
        """Begin like any job. ``check``, called before each read, raises if the result is no longer wanted."""

    def objection(self) -> str:
        """Return why the worker that calls this cannot do the tasks; empty if it can."""


class Executor(Protocol):
    """A function that runs the tasks of a job."""

    def __call__(self, job: Job[Task, Result], tasks: Iterable[Task], *, workers: int) -> Iterator[Result]:
        """Yield the results of all tasks in the order in which they are finished.

        ``workers``: the maximum number of workers that do tasks at the same time.

        :raises WorkerError: a worker could not be started, died, or ran out of memory.
        :raises BatchdiffError: a task raised it.
        """


class RemoteExecutor(Protocol):
    """An executor with workers on other hosts, connected to them until it is closed."""

    def __call__(self, job: RemoteJob[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Run the tasks on all workers that can do them; yield results in the order in which they are finished.

        :raises WorkerError: no worker can do them, workers failed, or the connection was lost.
        :raises BatchdiffError: a task raised it.
        """

    def close(self) -> None:
        """Close the connection. Afterwards, this process may fork again."""
