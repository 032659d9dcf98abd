"""Scans by the workers of a real Dask scheduler, which is started here with its workers.

Guards planning/remote/dask_workers.py, planning/remote/crew.py, planning/remote/resident_job.py,
planning/remote/remote_scan.py, planning/remote/connection.py.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import notation
import pytest
from dask_hosts import scheduler, worker
from dask_jobs import Deadly, Failing, Waiting
from distributed import CancelledError, KilledWorker
from filesystems import among_own_mounts, tmpfs
from real_holders import wait_for
from small_fleet import checksum, manifest

from batchdiff import __version__
from batchdiff.errors import GuestError, ImageError, UsageError, WorkerError
from batchdiff.image_source import ImageFormat
from batchdiff.planning import scan_all
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.planning.remote import connection, dask_workers
from batchdiff.planning.remote.connection import Certificates, connect
from batchdiff.planning.remote.crew import Crew
from batchdiff.planning.remote.heartbeats import LONGEST_SILENCE
from batchdiff.planning.remote.remote_scan import RemoteScans
from batchdiff.planning.scan.scan_job import ScanJob
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.throttle.options import ScanLimits
from batchdiff.units import KIB, MIB

RANGES = 8
TEMPLATE = "1M:A 63M:- " * RANGES
GUESTS = {
    "one.img": "1M:X 63M:- " + "1M:A 63M:- " * (RANGES - 1),
    "two.qcow2": "1M:A 63M:- " * (RANGES - 1) + "64k:Y 960k:A 63M:-",
    "three.vdi": "1M:A 63M:- " * (RANGES - 2) + "1M:Z 63M:- 1M:0 63M:-",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A template and three guests in eight ranges; workers cannot read one of them by themselves."""
    with tmpfs(tmp_path_factory.mktemp("fleet")) as folder:
        write_images(folder)
        yield folder


def write_images(folder):
    notation.write_raw(folder / "template.img", TEMPLATE)
    notation.write_raw(folder / "one.img", GUESTS["one.img"])
    notation.write_qcow2(folder / "two.qcow2", GUESTS["two.qcow2"])
    notation.write_raw(folder / "three.raw", GUESTS["three.vdi"])
    notation.run("qemu-img", "convert", "-O", "vdi", str(folder / "three.raw"), str(folder / "three.vdi"))
    (folder / "three.raw").unlink()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """A scheduler with two workers."""
    folder = tmp_path_factory.mktemp("hosts")
    with scheduler(folder) as found, worker(found, folder / "a") as a, worker(found, folder / "b") as b:
        found.workers = [a, b]
        yield found


@contextlib.contextmanager
def connected(hosts, notices=None, patience=30.0, **limits):
    """A connection that ends after two minutes, whatever waits for it."""

    def too_long(*_):
        raise AssertionError("a scan that should take seconds hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(120)
    notices = [] if notices is None else notices
    workers = connect(hosts.address, Certificates(), say=notices.append, warn=notices.append)
    workers._patience = patience
    try:
        yield RemoteScans(workers, ScanLimits(**limits))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        workers.close()


def taking_part(notices):
    return [text for text in notices if text.endswith("takes part.")]


def fleet(folder):
    """The manifest of the fleet, in which QEMU maps the last guest."""
    found = manifest(folder, GUESTS)
    *others, last = found.guests
    return replace(found, guests=(*others, replace(last, image=replace(last.image, format=ImageFormat.VDI))))


@pytest.fixture(scope="module")
def expected(folder):
    """The checksum of a plan without Dask and without worker processes."""
    return checksum(make_plan(fleet(folder), jobs=1))


def test_the_same_plan_whoever_executes_it(folder, hosts, expected, monkeypatch):
    """Workers elsewhere scan what they can read by themselves, and this process the rest."""
    scanned = []

    def here(job, tasks, **settings):
        scanned.extend(guest.source.path for guest in getattr(job, "guests", ()))
        return run_tasks(job, tasks, **settings)

    monkeypatch.setattr(scan_all, "run_tasks", here)
    notices = []
    with connected(hosts, notices) as remote:
        found = make_plan(fleet(folder), jobs=2, remote=remote)
        # The assessment forks: by then, no threads of Dask are left here.
        assert threading.enumerate() == [threading.main_thread()]
    assert checksum(found) == expected
    assert scanned == [str(folder / "three.vdi")]
    assert taking_part(notices)
    assert checksum(make_plan(fleet(folder), jobs=2)) == expected


def test_images_are_closed_when_a_planner_is_done(folder, hosts):
    with connected(hosts) as remote:
        make_plan(fleet(folder), jobs=1, remote=remote)
    wait_for(lambda: not open_images(hosts, folder))


def open_images(hosts, folder):
    """The images that the workers have open."""
    names = [name for each in hosts.workers for name in open_files(each.pid)]
    return [name for name in names if name.startswith(str(folder))]


def open_files(pid):
    return [os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_worker_that_dies_in_the_middle(folder, hosts, expected, tmp_path):
    """Its ranges go elsewhere. The rate makes sure that it has some when it dies."""
    notices = []
    with worker(hosts, tmp_path / "c") as victim, connected(hosts, notices, limit_rate=2 * MIB) as remote:
        remote.executor._client.wait_for_workers(3)
        killed = []

        def progress(done, _total):
            if done and len(taking_part(notices)) == 3 and not killed and busy(remote, victim):
                victim.kill()
                killed.append(victim.wait())

        found = make_plan(fleet(folder), jobs=1, remote=remote, progress=progress)
    assert killed == [-signal.SIGKILL]
    assert checksum(found) == expected
    assert any(note.endswith("is gone; its unfinished ranges are left to others") for note in notices)


@pytest.mark.long
def test_a_worker_that_freezes_in_the_middle(folder, hosts, expected, tmp_path):
    """Its ranges go elsewhere after half a minute; meanwhile all others wait for their disks, and are not dead."""
    notices = []
    with worker(hosts, tmp_path / "c") as victim, connected(hosts, notices, limit_rate=2 * MIB) as remote:
        remote.executor._client.wait_for_workers(3)
        frozen = []

        def progress(done, _total):
            if done and len(taking_part(notices)) == 3 and not frozen and busy(remote, victim):
                victim.send_signal(signal.SIGSTOP)
                frozen.append(time.monotonic())

        found = make_plan(fleet(folder), jobs=1, remote=remote, progress=progress)
        took = time.monotonic() - frozen[0]
    assert checksum(found) == expected
    assert LONGEST_SILENCE <= took < LONGEST_SILENCE + 30
    assert len([text for text in notices if "has not reported for 30 seconds" in text]) == 1


@pytest.mark.long
def test_a_worker_whose_disk_hangs_is_not_dead(tmp_path):
    """Not even after more than the time after which a frozen one would be: this process only waits, too."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    answered = threading.Timer(LONGEST_SILENCE * 1.5, fifo.write_bytes, args=[b"x"])
    notices = []
    with scheduler(tmp_path) as found, worker(found, tmp_path / "w"), connected(found, notices) as remote:
        answered.start()
        assert list(remote.executor(Waiting(str(fifo)), range(1))) == [1]
    answered.join()
    assert len(notices) == len(taking_part(notices)) == 1


def busy(remote, process):
    """The tasks that a worker process has now."""
    client = remote.executor._client
    (address,) = [at for at, pid in client.run(os.getpid).items() if pid == process.pid]
    return client.processing()[address]


def test_workers_that_are_left_out(folder, hosts, expected, tmp_path):
    """One has another version of batchdiff, and on the other's host other images have these names."""
    other = tmp_path / "other" / "batchdiff"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "9.9"\n')
    notices = []
    with (
        worker(hosts, tmp_path / "old", "--name", "old", package=other.parent),
        worker(hosts, tmp_path / "elsewhere", "--name", "elsewhere", before=with_copies(folder, tmp_path)),
        connected(hosts, notices) as remote,
    ):
        remote.executor._client.wait_for_workers(4)
        addresses = {each["id"]: at for at, each in remote.executor._client.scheduler_info()["workers"].items()}
        # Slow enough that all four have answered before the last range is done.
        found = make_plan(fleet(folder), jobs=1, remote=replace(remote, limits=ScanLimits(limit_rate=2 * MIB)))
    assert checksum(found) == expected
    assert sorted(text for text in notices if text not in taking_part(notices)) == sorted(
        [
            f"the worker {addresses['old']} is left out: it has batchdiff 9.9, but the planner has {__version__}"
            " (install the same version on all hosts)",
            f"the worker {addresses['elsewhere']} is left out: {folder}/template.img: another file is in its place"
            " on that host",
        ]
    )
    assert len(taking_part(notices)) == 2


def with_copies(folder, place):
    """The words before a command in whose eyes copies of the images have their names."""
    copies = place / "copies"
    notation.run("cp", "-a", "--sparse=always", str(folder), str(copies))
    return among_own_mounts(folder, 'mount --bind "$1" "$0"; shift; exec "$@"', str(copies))


def test_no_worker_sees_the_same_files(folder, tmp_path):
    with (
        scheduler(tmp_path) as found,
        worker(found, tmp_path / "w", before=with_copies(folder, tmp_path)),
        connected(found) as remote,
        pytest.raises(WorkerError) as caught,
    ):
        make_plan(fleet(folder), jobs=1, remote=remote)
    assert caught.value.what == "none of the scheduler's workers can scan these images"
    assert "template.img: another file is in its place on that host" in caught.value.why
    assert caught.value.exit_code == 4


def test_a_scheduler_without_workers_and_then_none(folder, tmp_path, expected, monkeypatch):
    """A scheduler that dies in the middle costs nothing that is in the checkpoint."""
    plan = str(tmp_path / "plan.json")
    with scheduler(tmp_path) as found:
        with (
            connected(found, patience=0.1) as remote,
            pytest.raises(WorkerError, match="scheduler has no workers"),
        ):
            make_plan(fleet(folder), jobs=1, remote=remote)
        with worker(found, tmp_path / "w"), connected(found, limit_rate=2 * MIB) as remote:
            first = Checkpoint(plan, warn=print, begin_after=0)

            def progress(done, _total):
                if done:
                    found.process.kill()

            with contextlib.closing(first), pytest.raises(WorkerError) as caught:
                make_plan(fleet(folder), jobs=1, remote=remote, progress=progress, earlier=EarlierResults(first))
        assert caught.value.what == "the Dask scheduler no longer answers"
        assert "Run the same command again, with --scheduler" in caught.value.remedy
        monkeypatch.setattr(connection, "_TIMEOUT", 0.5)
        with pytest.raises(WorkerError, match=r"cannot connect to the scheduler at tcp://127.0.0.1"):
            connect(found.address, Certificates(), say=print, warn=print)
    said = []
    second = Checkpoint(plan, warn=said.append)
    with contextlib.closing(second):
        resumed = make_plan(fleet(folder), jobs=1, earlier=EarlierResults(second, say=said.append))
    assert checksum(resumed) == expected
    assert len(said) == 1
    assert said[0].startswith("Resuming an interrupted scan: ")


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (
            {"refused": {"a": "it has batchdiff 1"}},
            "none of the scheduler's workers can scan these images: a: it has",
        ),
        (
            {"refused": {"a": "old"}, "_ever_admitted": True},
            "the scan ran out of workers: the last worker that took",
        ),
        (
            {"_ever_admitted": True},
            "the scan ran out of workers: the last worker that took part died, froze or left",
        ),
        ({}, "the scheduler has no workers that answer"),
    ],
)
def test_the_error_if_no_worker_can_scan(state, what):
    """If one has scanned, another that was left out is not the reason, and what was scanned is kept."""
    crew = Crew(None, None, print, print, set(), **{name: state[name] for name in state if name == "refused"})
    crew._ever_admitted = "_ever_admitted" in state
    assert crew.error().reason.startswith(what)


def test_a_template_that_qemu_reads(folder, hosts):
    of = fleet(folder)
    of = replace(of, template=of.guests[-1].image, guests=of.guests[:1])
    with connected(hosts) as remote, pytest.raises(UsageError, match="first convert the template to unencrypted"):
        make_plan(of, jobs=1, remote=remote)


def test_a_guest_that_only_another_host_cannot_read(folder, monkeypatch, expected):
    """It is read here before it would be refused."""
    of = fleet(folder)
    read_here = []
    real = ScanJob.begin

    @contextlib.contextmanager
    def begin(self):
        with real(self) as scan:
            yield lambda number: read_here.append(number) or scan(number)

    class Faulty:
        """An executor whose worker gives up the first guest at once."""

        def __call__(self, job, tasks):
            with real(job.scan) as scan:
                for task in tasks:
                    yield replace(scan(task), differences={}, failures={0: ImageError("EIO there")})

        def close(self):
            pass

    monkeypatch.setattr(ScanJob, "begin", begin)
    found = make_plan(of, jobs=2, remote=RemoteScans(Faulty(), ScanLimits()))
    assert checksum(found) == expected
    assert sorted(set(read_here)) == list(range(RANGES))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GuestError, (GuestError, "as asked")),
        (MemoryError, (WorkerError, r"a Dask worker ran out of memory while doing task <[012]>")),
        (ZeroDivisionError, (RuntimeError, r"in a Dask worker(?s:.*)ZeroDivisionError: as asked")),
    ],
)
def test_tasks_that_fail(hosts, error, expected):
    with connected(hosts) as remote, pytest.raises(expected[0], match=expected[1]):
        list(remote.executor(Failing(error), range(3)))


@pytest.mark.long
def test_a_task_that_kills_every_worker(tmp_path):
    """A nanny starts a new worker whenever one dies; that must end."""
    with (
        scheduler(tmp_path) as found,
        worker(found, tmp_path / "w", nanny=True),
        connected(found) as remote,
        pytest.raises(WorkerError, match=r"4 Dask workers died, froze or were cut off, each while doing task <3>"),
    ):
        list(remote.executor(Deadly(), range(5)))


class Given:
    """A task that was given to a worker, in place of a future."""

    status = "pending"

    def cancel(self):
        self.status = "cancelled"

    def result(self, timeout):
        raise CancelledError


@pytest.mark.parametrize(
    "noticed", [lambda work, _: work.submit(set()), lambda work, future: [*work.take(future)]]
)
def test_only_the_task_in_progress_counts_as_deadly(noticed):
    """A worker with two tasks is gone; the second one was waiting."""
    first, second = Given(), Given()
    tasks = dask_workers._Pending("first", "a"), dask_workers._Pending("second", "a")
    work = dask_workers._Work(None, Deadly(), iter(()))
    work.pending = dict(zip((first, second), tasks, strict=True))
    noticed(work, first)
    assert [*work.take(second)] == []
    assert (work.pending, work._again) == ({}, [*tasks])
    assert [task.deaths for task in tasks] == [1, 0]


@pytest.mark.parametrize(("allowed", "what"), [(0, "a Dask worker died"), (5, "6 Dask workers died")])
def test_the_deaths_that_dask_itself_counts(allowed, what):
    """The scheduler's `allowed-failures` can be configured."""
    first = Given()
    first.status, first.exception = "error", lambda: KilledWorker("task", None, allowed)
    work = dask_workers._Work(None, Deadly(), iter(()))
    work.pending = {first: dask_workers._Pending("first", "a")}
    with pytest.raises(WorkerError, match=f"^{what}, froze or w.* cut off,? (each )?while doing task <first>"):
        [*work.take(first)]


def test_a_task_that_is_finished_is_not_deadly():
    """Its result was still with its worker, which was doing the next one."""
    first, second = Given(), Given()
    first.status = "finished"
    tasks = dask_workers._Pending("first", "a"), dask_workers._Pending("second", "a", deaths=3)
    work = dask_workers._Work(None, Deadly(), iter(()))
    work.pending = dict(zip((first, second), tasks, strict=True))
    with pytest.raises(WorkerError, match=r"4 Dask workers died, froze or were cut off, each while .*<second>"):
        work.submit(set())


@pytest.mark.long
def test_the_last_worker_dies(tmp_path):
    with (
        scheduler(tmp_path) as found,
        worker(found, tmp_path / "w"),
        connected(found, patience=1) as remote,
        pytest.raises(WorkerError, match="the scan ran out of workers: the last worker that took part died"),
    ):
        list(remote.executor(Deadly(), range(5)))


@pytest.mark.long
def test_a_worker_that_comes_later(folder, tmp_path, expected):
    """It takes part, even if it is the only one that is left."""
    notices = []
    with scheduler(tmp_path) as found, contextlib.ExitStack() as later:
        first = later.enter_context(worker(found, tmp_path / "first"))
        with connected(found, notices, limit_rate=4 * MIB) as remote:

            def progress(done, _total):
                if done and first.poll() is None:
                    first.kill()
                    later.enter_context(worker(found, tmp_path / "second"))

            assert checksum(make_plan(fleet(folder), jobs=1, remote=remote, progress=progress)) == expected
    assert len(taking_part(notices)) == 2


@pytest.mark.long
def test_a_range_that_is_no_longer_wanted_is_given_up(folder, hosts):
    """At this rate it would take one and a half minutes; a worker notices before its next read."""
    with connected(hosts) as remote:
        slow = RemoteScans(Interrupted(remote.executor, hosts.workers), ScanLimits(limit_rate=32 * KIB))
        with pytest.raises(KeyboardInterrupt):
            make_plan(fleet(folder), jobs=1, remote=slow)
    wait_for(lambda: not open_images(hosts, folder))


class Interrupted:
    """An executor that is interrupted a moment after its workers have opened the images."""

    def __init__(self, executor, workers):
        self.executor, self.workers = executor, workers

    def __call__(self, job, tasks):
        def interrupted(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupted)
        threading.Thread(target=self.interrupt, args=(job.scan.template.path,)).start()
        try:
            yield from self.executor(job, tasks)
        finally:
            signal.signal(signal.SIGUSR1, before)

    def interrupt(self, path):
        wait_for(lambda: any(path in open_files(each.pid) for each in self.workers))
        os.kill(os.getpid(), signal.SIGUSR1)

    def close(self):
        self.executor.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(64)])
def test_what_listens_there_is_no_scheduler(answer):
    """Its answer would be taken for the lengths of frames, perhaps of exbibytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.sendall(answer)

        threading.Thread(target=greet, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"cannot connect to the scheduler at {address}") as caught:
            connect(address, Certificates(), say=print, warn=print)
        server.shutdown(socket.SHUT_RDWR)
    assert caught.value.why == "whatever listens there does not answer as a Dask scheduler does"


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_name_that_no_host_can_have(host):
    with pytest.raises(WorkerError, match=f"cannot connect to the scheduler at tcp://{host}:8786") as caught:
        connect(f"tcp://{host}:8786", Certificates(), say=print, warn=print)
    assert caught.value.why == "no host can have that name"
