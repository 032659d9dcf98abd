import errno
import fcntl
import gc
import itertools
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager

import numpy as np
import pytest
from oracle import within
from real_holders import wait_for

from batchdiff.errors import GuestError, ImageError, WorkerError
from batchdiff.planning.scan import workers as pool
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.units import KIB, MIB


class Doing:
    """A job of tasks that ``work`` does; ``start`` returns that function, once in each worker."""

    def __init__(self, work, start=None):
        self.start = start or (lambda: work)

    @contextmanager
    def begin(self):
        yield self.start()

    def describe(self, task):
        return f"doing task <{task}>"


SAME = Doing(lambda task: task)


def collect(work, tasks, jobs, start=None):
    return list(run_tasks(Doing(work, start), tasks, workers=jobs))


def children():
    return multiprocessing.active_children()


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = len(os.listdir("/proc/self/fd"))
    with within(20):
        yield
    assert children() == []
    gc.collect()  # a traceback holds what its frames held
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("jobs", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_every_task_is_done_once(jobs, count):
    assert sorted(collect(lambda task: task * task, range(count), jobs)) == [n * n for n in range(count)]


def test_one_job_means_no_process():
    assert set(collect(lambda _: os.getpid(), range(5), 1)) == {os.getpid()}


def test_each_worker_starts_once_and_all_work():
    def start():
        calls = itertools.count()
        return lambda _: (time.sleep(0.01), os.getpid(), next(calls))[1:]

    found = collect(None, range(30), 3, start)
    workers = {pid for pid, _ in found}
    assert len(workers) == 3
    assert os.getpid() not in workers
    assert {pid for pid, call in found if call == 0} == workers
    assert len(set(found)) == 30


class Noting(Doing):
    """A job that notes when it begins and ends."""

    def __init__(self, work):
        super().__init__(work)
        self.events = []

    @contextmanager
    def begin(self):
        self.events.append("begin")
        try:
            yield self.start()
        finally:
            self.events.append("end")


@pytest.mark.parametrize("how", ["done", "failed", "left"])
def test_without_workers_a_job_ends_in_any_case(how):
    """It closes its images, which are open in the planner's own process."""

    def work(task):
        if how == "failed":
            raise GuestError("no")
        return task

    job = Noting(work)
    results = run_tasks(job, range(3), workers=1)
    if how == "failed":
        with pytest.raises(GuestError):
            next(results)
    elif how == "left":
        next(results)
        results.close()
    else:
        assert list(results) == [0, 1, 2]
    assert job.events == ["begin", "end"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_does_not_end_before_its_tasks_are_done(workers):
    job = Noting(lambda _: list(job.events))
    assert list(run_tasks(job, range(4), workers=workers)) == [["begin"]] * 4


def test_no_more_workers_than_tasks():
    assert len(set(collect(lambda _: os.getpid(), range(2), 16))) == 2


def test_tasks_are_taken_when_a_worker_is_free():
    """A list of a million ranges is never held: the next task is fetched as one is done."""
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield number

    results = run_tasks(SAME, tasks(), workers=2)
    for done in range(1, 10):
        next(results)
        assert len(taken) <= done + 2
    results.close()


def test_large_results():
    sizes = collect(lambda task: bytes(4 * MIB + task), range(6), 2)
    assert sorted(map(len, sizes)) == [4 * MIB + n for n in range(6)]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, 40])
def test_a_killed_worker_is_an_error_that_names_its_task(signal_number):
    def work(task):
        if task == 7:
            os.kill(os.getpid(), signal_number)
        return task

    with pytest.raises(WorkerError) as caught:
        collect(work, range(20), 3)
    name = "signal 40" if signal_number == 40 else signal.Signals(signal_number).name
    why = ": it ran out of memory, or a user killed it" if signal_number == signal.SIGKILL else ""
    assert str(caught.value) == (
        f"a worker process was killed by {name} while doing task <7>{why}. No plan was written. Check the kernel"
        " log (`dmesg`), then run the same command again."
    )
    assert caught.value.exit_code == 4


def test_the_outcome_of_the_command_is_in_the_error():
    tasks = run_tasks(Doing(lambda _: os._exit(3)), range(3), workers=2, outcome="Nothing was found.")
    with pytest.raises(WorkerError, match=r"task <\d>. Nothing was found. Check the kernel log"):
        list(tasks)


def test_a_worker_that_exits():
    with pytest.raises(WorkerError, match=r"exit code 3 .*task <2>"):
        collect(lambda task: os._exit(3) if task == 2 else task, range(5), 2)


def test_a_worker_killed_while_it_sends_a_result(monkeypatch):
    """Half a message is in the pipe, which takes no more of it: that is its death, not a bug."""

    def wait_and_kill(pipes, _seconds, *, real=pool.wait):
        (pipe,) = real(pipes)
        wait_for(lambda: readable(pipe) > 64 * KIB)
        (worker,) = children()
        killed(worker.pid)
        return [pipe]

    monkeypatch.setattr(pool, "wait", wait_and_kill)
    with pytest.raises(WorkerError, match="task <3>"):
        collect(lambda _: bytes(64 * MIB), [3], 2)


def readable(pipe):
    """Bytes that are in a pipe."""
    return struct.unpack("=i", fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4)))[0]


def killed(pid):
    """Kills a process, and returns when it is dead; whoever started it can still ask how it ended."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_worker_killed_between_two_tasks(monkeypatch):
    """It dies right after a result: the next task cannot be given to it."""

    def kill_and_give(worker, job, task, *, real=pool._give):
        if task >= 2:  # the first two start the workers
            killed(worker.process.pid)
        real(worker, job, task)

    monkeypatch.setattr(pool, "_give", kill_and_give)
    with pytest.raises(WorkerError, match="SIGKILL while doing task <2>"):
        collect(lambda task: task, range(9), 2)


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("where", ["start", "task"])
def test_what_batchdiff_raises_comes_through(jobs, where):
    error = ImageError("cannot read x", why="EIO", remedy="Look.")

    def fail(*_):
        raise error

    with pytest.raises(ImageError) as caught:
        collect(fail, range(5), jobs, fail if where == "start" else None)
    assert type(caught.value) is ImageError
    assert (caught.value.what, caught.value.why, caught.value.remedy) == ("cannot read x", "EIO", "Look.")


def test_an_error_among_results():
    def work(task):
        if task == 5:
            raise GuestError("five")
        return task

    found = []
    with pytest.raises(GuestError, match="five"):
        found.extend(run_tasks(Doing(work), range(10), workers=2))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("where", ["start", "task", "result"])
def test_memory_that_is_short(jobs, where):
    class Unsendable:
        def __reduce__(self):
            raise MemoryError("no room")

    def fail(*_):
        return np.empty(1 << 60, dtype=np.uint8)  # numpy's own kind of MemoryError

    work = (lambda _: Unsendable()) if where == "result" else fail
    if jobs == 1 and where == "result":
        return
    with pytest.raises(WorkerError, match=r"ran out of memory while doing task <[012]>") as caught:
        collect(work, range(3), jobs, fail if where == "start" else None)
    fewer = "" if jobs == 1 else "Run the same command with fewer jobs (`-j`), or free some memory."
    assert caught.value.remedy == f"No plan was written. {fewer}" or jobs == 1


@pytest.mark.parametrize("started", [0, 1])
def test_a_process_that_cannot_be_started(monkeypatch, started):
    real, forks = os.fork, []

    def fork():
        forks.append(1)
        if len(forks) > started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real()

    pipes, plain = [], os.pipe

    def pipe():
        pipes.extend(made := plain())
        return made

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "pipe", pipe)  # multiprocessing leaves those of a failed start open
    with pytest.raises(WorkerError, match=r"cannot start a worker.*Resource temporarily.*-j 1"):
        collect(lambda task: time.sleep(0.1), range(5), 3)
    for fd in pipes[-4:]:
        os.close(fd)


def test_too_few_descriptors_for_a_worker(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pool._context, "Pipe", refuse)
    with pytest.raises(WorkerError) as caught:
        collect(lambda task: task, range(5), 3)
    assert caught.value.reason == "cannot start a worker process: Too many open files"
    assert pool._unstarted(OSError(errno.EAGAIN, "Try again")).remedy == (
        "Run the same command with fewer jobs (`-j 1` needs no worker process), or raise the limits"
        " (`ulimit -u`, `ulimit -n`)."
    )


def test_a_bug_in_a_worker_shows_where():
    def buggy(task):
        return {}[task]

    with pytest.raises(RuntimeError, match=r"in a worker process(?s:.*)buggy(?s:.*)KeyError: [012]"):
        collect(buggy, range(3), 2)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_planner_ends_the_workers(monkeypatch, kind):
    """They are busy for ever; nothing_is_left() waits for none of them."""

    def interrupted(_pipes, _seconds):
        assert len(children()) == 3
        raise kind

    monkeypatch.setattr(pool, "wait", interrupted)
    with pytest.raises(kind):
        collect(lambda _: signal.pause(), itertools.count(), 3)


def test_leaving_half_way_ends_the_workers():
    results = run_tasks(SAME, itertools.count(), workers=3)
    next(results)
    assert len(children()) == 3
    results.close()


def test_ctrl_c_is_the_planners_alone():
    """The terminal sends SIGINT to every process of the group."""

    def work(task):
        os.kill(os.getpid(), signal.SIGINT)
        return task

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is deaf to it
    try:
        assert sorted(collect(work, range(4), 2)) == [0, 1, 2, 3]
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_planners_handlers_are_not_the_workers():
    def handler(*_):
        raise AssertionError("the planner's handler ran in a worker")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert collect(lambda _: signal.getsignal(signal.SIGTERM), range(2), 2) == [signal.SIG_DFL] * 2
        blocked = collect(lambda _: signal.pthread_sigmask(signal.SIG_BLOCK, []), range(2), 2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert blocked == [set(), set()]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


_PLANNER = """
import contextlib, os, sys, time
from batchdiff.planning.scan import workers as pool
from batchdiff.planning.scan.workers import run_tasks

def work(task):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.3)
    return task

class Job:
    @contextlib.contextmanager
    def begin(self):
        yield work

for _ in run_tasks(Job(), range(10**6), workers=3):
    pass
"""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_end_when_the_planner_is_killed(tmp_path):
    path = tmp_path / "workers"
    argv = [sys.executable, "-c", _PLANNER, str(path)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as planner:
        while not path.exists() or len(path.read_text().splitlines()) < 4:
            time.sleep(0.05)
        planner.kill()
        # The workers hold stderr too: it ends when the last of them does.
        assert planner.stderr.read() == ""
    # Their new parent may be slow to notice that they have ended.
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in path.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_worker_gets_its_tasks_in_ascending_order():
    """So that each reads every image from its beginning to its end, and the disk's read-ahead is right."""

    def work(task):
        time.sleep(0.001 * (task % 3))
        return os.getpid(), task

    found = collect(work, range(60), 3)
    by_worker = {}
    for pid, task in found:
        by_worker.setdefault(pid, []).append(task)
    assert len(by_worker) == 3
    assert all(tasks == sorted(tasks) for tasks in by_worker.values())
