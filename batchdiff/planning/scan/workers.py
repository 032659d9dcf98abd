"""The executor on this host: each forked worker gets one task at a time.

::

    planner   task -> pipe 1 -> worker 1 -> result      A worker's death closes its pipe: the planner knows
              task -> pipe 2 -> worker 2 -> result      the worker's current task, and how it died.

If only one worker is asked for, the planner does the tasks itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic

from batchdiff.errors import BatchdiffError, WorkerError
from batchdiff.planning.scan.executor import Executor, Job, Result, Task
from batchdiff.signals import HELD, held_signals, signal_name

# fork: a worker starts in 2 ms; spawn needs 0.3 s for the imports alone. fork is safe: the planner has no threads.
_context = multiprocessing.get_context("fork")

_BETWEEN_LOOKS = 0.5
"""In seconds."""


@dataclass(slots=True)
class _Worker(Generic[Task]):
    process: BaseProcess
    pipe: Connection
    task: Task


class _PoolError(WorkerError):
    """A failure whose remedy still lacks the command's outcome."""


def run_tasks(
    job: Job[Task, Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    outcome: str = "No plan was written.",
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Run the tasks in up to ``workers`` processes: see :class:`~batchdiff.planning.scan.executor.Executor`.

    ``outcome``: the first sentence of a WorkerError's remedy. ``waiting`` is called now and then while no result
    comes from forked workers.
    """
    try:
        yield from _results(job, tasks, workers, waiting)
    except _PoolError as failure:
        raise WorkerError(
            failure.what, why=failure.why, remedy=f"{outcome} {failure.remedy}"
        ) from failure.__cause__


def _results(
    job: Job[Task, Result], tasks: Iterable[Task], workers: int, waiting: Callable[[], None]
) -> Iterator[Result]:
    if workers == 1:
        yield from _without_workers(job, tasks)
        return
    running: dict[Connection, _Worker[Task]] = {}
    worker: _Worker[Task]
    result: Result
    try:
        # First one task for each worker, then the next for the worker that finishes first.
        for task in tasks:
            if len(running) < workers:
                _give(_started_worker(job, task, running), job, task)
                continue
            worker, result = _next_result(running, job, waiting)
            _give(worker, job, task)
            yield result
        while running:
            worker, result = _next_result(running, job, waiting)
            del running[worker.pipe]
            _end(worker)
            yield result
    finally:
        for worker in running.values():
            worker.process.terminate()
            _end(worker)


_: Executor = run_tasks


def _without_workers(job: Job[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
    do = None
    with ExitStack() as begun:
        for task in tasks:
            try:
                do = do or begun.enter_context(job.begin())
                result = do(task)
            except MemoryError as error:
                raise _out_of_memory("batchdiff", job.describe(task), remedy="Free some memory.") from error
            yield result


def _started_worker(job: Job[Task, Result], task: Task, workers: dict[Connection, _Worker[Task]]) -> _Worker[Task]:
    """Start a worker, and add it to ``workers``; none of the HELD signals can come in between."""
    try:
        ours, theirs = _context.Pipe()
    except OSError as error:
        raise _unstarted(error) from error
    process = _context.Process(target=_work, args=(job, theirs, [ours, *workers]), daemon=True)
    with held_signals():  # the worker must never run the planner's signal handlers
        try:
            process.start()
            workers[ours] = _Worker(process, ours, task)
        except OSError as error:
            ours.close()
            raise _unstarted(error) from error
        finally:
            theirs.close()
    return workers[ours]


def _unstarted(error: OSError) -> _PoolError:
    return _PoolError(
        "cannot start a worker process",
        why=error.strerror or str(error),
        remedy="Run the same command with fewer jobs (`-j 1` needs no worker process), or raise the limits"
        " (`ulimit -u`, `ulimit -n`).",
    )


def _give(worker: _Worker[Task], job: Job[Task, Result], task: Task) -> None:
    worker.task = task
    try:
        worker.pipe.send(task)
    except OSError as error:  # it died before it got the task
        raise _death(worker, job) from error


def _end(worker: _Worker[Task]) -> None:
    worker.pipe.close()
    worker.process.join()
    # Otherwise a finalizer would close the process: Ctrl-C during a finalizer prints a traceback, and is lost.
    with held_signals():
        worker.process.close()


def _next_result(
    workers: dict[Connection, _Worker[Task]], job: Job[Task, Result], waiting: Callable[[], None]
) -> tuple[_Worker[Task], Result]:
    while not (ready := wait(list(workers), _BETWEEN_LOOKS)):
        waiting()
    worker = workers[ready[0]]  # type: ignore[index]  # wait() returns what it was given
    try:
        succeeded, value = worker.pipe.recv()
    except (EOFError, OSError) as error:  # OSError: it died while sending a result
        raise _death(worker, job) from error
    if succeeded:
        return worker, value
    if isinstance(value, MemoryError):
        remedy = "Run the same command with fewer jobs (`-j`), or free some memory."
        raise _out_of_memory("a worker process", job.describe(worker.task), remedy=remedy)
    raise value


def _out_of_memory(who: str, doing: str, *, remedy: str) -> _PoolError:
    return _PoolError(f"{who} ran out of memory while {doing}", remedy=remedy)


def _death(worker: _Worker[Task], job: Job[Task, Result]) -> _PoolError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    return _PoolError(
        f"a worker process {how} while {job.describe(worker.task)}",
        why="it ran out of memory, or a user killed it" if code == -signal.SIGKILL else "",
        remedy="Check the kernel log (`dmesg`), then run the same command again.",
    )


def _work(job: Job[Task, Result], pipe: Connection, inherited: list[Connection]) -> None:
    # Ctrl-C and a closed terminal reach the whole process group; only the planner reacts to them.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    for connection in inherited:
        connection.close()  # otherwise the workers would not notice the planner's death
    do = None
    begun = ExitStack()  # never closed: the end of the process closes all files
    while True:
        try:
            task = pipe.recv()
        except (EOFError, ConnectionError):  # ConnectionError: the planner died with a result unread
            os._exit(0)
        try:
            do = do or begun.enter_context(job.begin())
            message: tuple[bool, object] = (True, do(task))
        except BatchdiffError as error:
            message = (False, error)
        except MemoryError as error:
            message = (False, MemoryError(str(error)))
        except Exception:  # a bug: the planner shows it with the worker's traceback
            message = (False, RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        try:
            _send(pipe, message)
        except ConnectionError:  # the planner died
            os._exit(0)


def _send(pipe: Connection, message: tuple[bool, object]) -> None:
    try:
        pipe.send(message)
    except MemoryError as error:  # no memory to serialize it; nothing has been sent yet
        pipe.send((False, MemoryError(str(error))))
