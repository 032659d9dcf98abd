"""Pace, page cache and priority: measured from outside, by the kernel's own figures.

Guards throttle/page_cache.py, throttle/throttle.py.
"""

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import platform
import struct
import subprocess
import sys
import time
from contextlib import closing

import notation
import pytest
from clocks import Clock
from filesystems import mounted
from oracle import within

from batchdiff.errors import ImageError
from batchdiff.image import files
from batchdiff.throttle import page_residency
from batchdiff.throttle import rate_limit as pace_module
from batchdiff.throttle.options import CacheUse, ScanLimits
from batchdiff.throttle.page_cache import BLOCK, DropBehind
from batchdiff.throttle.rate_limit import RateLimit
from batchdiff.throttle.throttle import throttle
from batchdiff.units import KIB, MIB

PAGE = page_residency.PAGE


def resident(path):
    """Bytes of a file in the page cache, says fincore (util-linux)."""
    return int(notation.run("fincore", "-nb", "-o", "RES", str(path)))


def evict(*paths):
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        assert resident(path) == 0


def read_in(path, *pieces):
    """Puts pieces of a file, and nothing else of it, into the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for start, end in pieces:
        os.pread(fd, end - start, start)
    os.close(fd)


def present(path, end):
    """The numbers of the pages up to ``end`` that are in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        absent = page_residency.absent_runs(fd, 0, end)
    finally:
        os.close(fd)
    found = set(range(end // PAGE))
    for first, last in absent:
        found.difference_update(range(first // PAGE, last // PAGE))
    return found


@pytest.fixture(params=["ext4", "xfs"])
def disk(request, tmp_path):
    with mounted(tmp_path, request.param, 512 * MIB) as folder:
        yield folder


def fleet(folder, size="65M"):
    notation.write_raw(folder / "template.img", f"{size}:A 1M:B")
    notation.write_raw(folder / "one.img", f"{size}:A 1M:C")
    notation.write_qcow2(folder / "two.qcow2", f"{size}:A 1M:D")
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\n"
        "guests: [{path: one.img, format: raw}, {path: two.qcow2, format: qcow2}]\n"
    )
    return [folder / name for name in ("template.img", "one.img", "two.qcow2")]


def plan(folder, *options):
    argv = [sys.executable, "-m", "batchdiff", "plan", "fleet.yaml", *options]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_the_scan_brought_in_goes(disk, jobs):
    images = fleet(disk)
    evict(*images)
    plan(disk, "--cache", "drop", "-j", jobs)
    assert [resident(path) for path in images] == [0, 0, 0]
    plan(disk, "--cache", "keep", "-j", jobs)
    assert min(resident(path) for path in images) > 60 * MIB


def test_what_was_there_before_stays(disk):
    images = fleet(disk)
    evict(*images)
    pieces = [(0, MIB), (5 * MIB, 5 * MIB + 64 * KIB), (63 * MIB, 65 * MIB)]
    for path in images:
        read_in(path, *pieces)
    before = [present(path, 66 * MIB) for path in images]
    assert all(0 < len(pages) * PAGE < 5 * MIB for pages in before)
    plan(disk, "--cache", "drop", "-j", "2")
    for path, pages in zip(images, before, strict=True):
        after = present(path, 66 * MIB)
        assert after <= pages
        # The kernel may take a page back at any time, whoever reads; the scan would have taken them all.
        assert len(after) > 0.9 * len(pages)


def test_the_plan_is_the_same(tmp_path):
    images = fleet(tmp_path, "3M")
    found = set()
    for options in ((), ("--cache", "drop"), ("--limit-rate", "100MiB"), ("--idle",)):
        evict(*images)
        plan(tmp_path, *options)
        found.add((tmp_path / "fleet.plan.json").read_text().split('"checksum": ')[1].splitlines()[0])
    assert len(found) == 1


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(2 * MIB))
    evict(path)
    fd = os.open(path, os.O_RDONLY)
    yield path, fd
    os.close(fd)


def test_absent_pages(image):
    path, fd = image
    assert page_residency.absent_runs(fd, 0, 2 * MIB) == [(0, 2 * MIB)]
    read_in(path, (PAGE, 3 * PAGE), (9 * PAGE, 10 * PAGE))
    edges = [(0, PAGE), (3 * PAGE, 9 * PAGE), (10 * PAGE, 2 * MIB)]
    assert page_residency.absent_runs(fd, 0, 2 * MIB) == edges
    assert page_residency.absent_runs(fd, PAGE, 2 * PAGE) == []
    read_in(path, (0, 2 * MIB))
    assert page_residency.absent_runs(fd, 0, 2 * MIB) == []


def test_asking_brings_nothing_in(image):
    path, fd = image
    page_residency.absent_runs(fd, 0, 2 * MIB)
    assert resident(path) == 0


def test_whom_the_kernel_does_not_tell(image, monkeypatch):
    path, fd = image
    assert page_residency.is_reliable(fd)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert not page_residency.is_reliable(fd)
    read_in(path, (0, MIB))
    with closing(files.ImageFile(str(path), DropBehind())) as file:
        file.read_exactly(2 * MIB, 0)
    assert resident(path) == 0


def test_a_descriptor_that_was_closed_and_used_again(tmp_path, image):
    """What was absent of one file is not dropped of another that has its number now."""
    other = tmp_path / "other"
    other.write_bytes(bytes(2 * MIB))
    with other.open("rb") as file:
        os.fsync(file.fileno())
    path, _ = image
    dropping = DropBehind()
    fd = os.open(path, os.O_RDONLY)
    dropping.before(fd, 0, PAGE)
    os.close(fd)
    assert os.open(other, os.O_RDONLY) == fd
    assert resident(other) == 2 * MIB
    dropping.settle()
    assert resident(other) == 2 * MIB
    os.close(fd)
    dropping.before(image[1], 0, PAGE)
    dropping.settle()


def test_failed_reads_are_reported_too(image):
    path, _ = image
    seen = []

    class Observer:
        def before(self, *what):
            seen.append(("before", *what))

        def after(self, *what):
            seen.append(("after", *what))

        def settle(self):
            seen.append(("settle",))

    observer = Observer()
    file = files.ImageFile(str(path), observer)
    file.read_exactly(5, 7)
    file.close()
    with pytest.raises(ImageError):
        file.read_exactly(1, 0)
    files.settle(observer)
    with closing(files.ImageFile(str(path))) as unobserved:
        unobserved.read_exactly(1, 0)
        files.settle(None)
    assert seen == [
        ("before", file.fd, 7, 5),
        ("after", file.fd, 7, 5),
        ("before", file.fd, 0, 1),
        ("after", file.fd, 0, 1),
        ("settle",),
    ]


def test_what_was_asked_for_in_vain_is_waited_for(image, monkeypatch):
    """Pages that are still under way from the disk cannot be dropped."""
    path, _ = image
    waited = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *what: waited.append(what) or real(*what))
    dropping = DropBehind()
    with closing(files.ImageFile(str(path), dropping)) as file:
        file.read_exactly(64 * KIB, 0)
        file.read_exactly(64 * KIB, 64 * KIB)
        dropping.settle()
    assert waited == [(file.fd, 2 * MIB - 128 * KIB, 128 * KIB)]
    assert resident(path) == 0


def test_nothing_is_read_ahead_over_the_edge_of_a_block(tmp_path):
    """It would look to the worker of the next block as if somebody else had it cached."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, BLOCK + 32 * MIB)
        for at in range(0, BLOCK + 32 * MIB, MIB):
            os.pwrite(file.fileno(), os.urandom(MIB), at)
    evict(path)
    dropping = DropBehind()
    with closing(files.ImageFile(str(path), dropping)) as file:
        files.read_sequentially(file.fd)
        for at in range(0, BLOCK, 512 * KIB):
            file.read_exactly(512 * KIB, at)
        assert page_residency.absent_runs(file.fd, BLOCK, BLOCK + 32 * MIB) == [(BLOCK, BLOCK + 32 * MIB)]
        dropping.settle()
    assert resident(path) == 0


def _read_at_a_pace(pace, count, length, began, queue):
    for _ in range(count):
        pace.before(0, 0, length)
    queue.put(time.monotonic() - began)


@pytest.fixture
def clock(monkeypatch):
    """The clock that a pace goes by."""
    monkeypatch.setattr(pace_module, "time", clock := Clock())
    return clock


@pytest.mark.parametrize("late", [0, 50_000_000])
def test_the_rate_is_kept(clock, late):
    """To the nanosecond; that each sleep lasts longer than it was asked for is made up for."""
    rate, length, reads = 64 * MIB, 512 * KIB, 100
    pace = RateLimit(rate)
    began = clock.now
    for _ in range(reads):
        before = clock.now
        pace.before(0, 0, length)
        clock.now += late if clock.now > before else 0
    pace.close()
    expected = (reads - 1) * length * 10**9 // rate
    assert expected <= clock.now - began <= expected + late


@pytest.mark.parametrize("workers", [1, 3])
def test_the_rate_is_that_of_all_together(workers):
    """No faster than it may be. A busy machine may be slower."""
    rate, length, total = 64 * MIB, 512 * KIB, 48 * MIB
    pace = RateLimit(rate)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    began = time.monotonic()
    count = total // length // workers
    running = [
        context.Process(target=_read_at_a_pace, args=(pace, count, length, began, queue)) for _ in range(workers)
    ]
    for process in running:
        process.start()
    took = max(queue.get() for _ in running)
    for process in running:
        process.join()
    pace.close()
    assert total / rate * 0.9 < took


def test_no_two_book_the_same_time():
    """All bookings at once, none of them waited for."""
    pace = RateLimit(1_000_000)
    far = time.monotonic_ns() + 10**12
    os.pwrite(pace._fd, struct.pack("=q", far), 0)
    pids = []
    for _ in range(3):
        pids.append(os.fork())
        if pids[-1] == 0:
            for _ in range(5000):
                pace._booked(1)
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    assert pace._booked(1) == far + 15_000 * 1000
    pace.close()


def test_unused_time_is_not_saved_up(clock):
    pace = RateLimit(10 * MIB)
    clock.sleep(60)
    began = clock.now
    for _ in range(10):
        pace.before(0, 0, MIB)
    # The last of ten reads begins after nine; a tenth of a second may be made up for.
    assert clock.now - began == 800_000_000
    pace.close()


def test_a_waiting_worker_does_not_delay_others(clock):
    pace = RateLimit(MIB)
    pace.before(0, 0, MIB)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            fcntl.lockf(pace._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    pace.close()


def test_a_killed_worker_does_not_delay_others():
    pace = RateLimit(1024 * MIB)
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(pace._fd, fcntl.LOCK_EX)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with within(1):
        pace.before(0, 0, 1)
    pace.close()


def test_a_limited_plan_takes_its_time(tmp_path):
    images = fleet(tmp_path, "15M")
    size = sum(os.stat(path).st_blocks * 512 for path in images)
    began = time.monotonic()
    plan(tmp_path, "--limit-rate", "24MiB/s", "-j", "2")
    took = time.monotonic() - began
    assert took > size / (24 * MIB) * 0.9


@pytest.mark.parametrize("rate", ["0", "1k", "fast", "-5M", "2P", ""])
def test_no_rate(tmp_path, rate):
    argv = [sys.executable, "-m", "batchdiff", "plan", "m.yaml", f"--limit-rate={rate}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert "rate" in done.stderr
    assert "Traceback" not in done.stderr


_IDLE = """
import contextlib, ctypes, os, sys
from batchdiff.throttle.options import ScanLimits
from batchdiff.throttle.throttle import throttle
from batchdiff.planning.scan.workers import run_tasks

class Look:
    @contextlib.contextmanager
    def begin(self):
        yield lambda _: (ctypes.CDLL(None).syscall(int(sys.argv[1]), 1, 0), os.nice(0))

told = []
with throttle(ScanLimits(idle=True), tell=told.append):
    print(set(run_tasks(Look(), range(4), workers=2)), *told)
"""


def test_idle_workers():
    """The kernel says of a worker: I/O class 3 (idle), nice 19."""
    number = {"x86_64": 252, "aarch64": 31}[platform.machine()]
    argv = [sys.executable, "-c", _IDLE, str(number)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.startswith(f"{{({3 << 13}, 19)}}")
    assert "idle" in said
    assert ctypes.CDLL(None).syscall(number, 1, 0) >> 13 != 3


def test_idle_is_reported_with_verbose(tmp_path):
    fleet(tmp_path, "1M")
    assert "--idle: disk priority class idle, CPU priority nice 19" in plan(tmp_path, "--idle", "-v").stderr
    assert "--idle" not in plan(tmp_path, "--idle").stderr


def test_manners_end_with_the_scan():
    before = os.listdir("/proc/self/fd")
    with throttle(ScanLimits(CacheUse.DROP, limit_rate=MIB)) as observer:
        assert [type(each) for each in observer.each] == [RateLimit, DropBehind]
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert os.listdir("/proc/self/fd") == before
    with throttle(ScanLimits()) as observer:
        assert observer is None
