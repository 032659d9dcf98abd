"""Leases on real filesystems: who is seen, and what happens to whoever comes while one is held."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import notation
import pytest
import real_holders
from filesystems import mounted, tmpfs
from oracle import within
from real_holders import process, wait_for

from batchdiff.image.in_use import lease
from batchdiff.image.in_use.lease import (
    Lease,
    is_ours_alone,
    lease_is_broken,
    release_lease,
    take_read_lease,
    why_unknown,
)

NOBODY = 65534


@pytest.fixture(scope="module", params=["tmpfs", "ext4", "xfs", "btrfs"])
def folder(tmp_path_factory, request):
    where = tmp_path_factory.mktemp("filesystem")
    with tmpfs(where) if request.param == "tmpfs" else mounted(where, request.param) as point:
        yield point


@pytest.fixture
def path(folder):
    path = notation.write_raw(folder / "disk.img", "1M:A")
    yield path
    path.unlink()


@pytest.fixture
def fd(path):
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


WRITERS = {name: real_holders.WRITERS[name] for name in ("loop-device", "writer", "appender")} | {
    "mapping": real_holders.mapping
}


@pytest.mark.parametrize("holding", WRITERS.values(), ids=WRITERS)
def test_every_writer_is_seen(path, fd, holding):
    assert why_unknown(fd) == ""
    with holding(path):
        assert take_read_lease(fd) is Lease.IN_USE
        assert is_ours_alone(fd) is Lease.IN_USE
    assert take_read_lease(fd) is Lease.GRANTED


@pytest.mark.parametrize("holding", real_holders.HARMLESS.values(), ids=real_holders.HARMLESS)
def test_readers_are_no_writers_but_we_are_not_alone(path, fd, holding):
    assert is_ours_alone(fd) is Lease.GRANTED
    with holding(path):
        assert take_read_lease(fd) is Lease.GRANTED
        assert is_ours_alone(fd) is Lease.IN_USE
        assert not lease_is_broken(fd)
    assert is_ours_alone(fd) is Lease.GRANTED
    with holding(path):  # it is not kept waiting by what was asked before
        assert not lease_is_broken(fd)


def test_a_writer_waits_until_we_let_go(path, fd):
    assert take_read_lease(fd) is Lease.GRANTED
    assert not lease_is_broken(fd)
    program = f"import os; os.write(os.open({str(path)!r}, os.O_RDWR), b'written')"
    with process([sys.executable, "-c", program]) as writer:
        wait_for(lambda: lease_is_broken(fd))
        assert writer.poll() is None
        assert path.read_bytes()[:7] != b"written"
        release_lease(fd)
        assert writer.wait(60) == 0
    assert path.read_bytes()[:7] == b"written"
    assert lease_is_broken(fd)  # there is none any more


@pytest.mark.parametrize("how", ["os.truncate(path, 512)", "open(path, 'wb')", "os.open(path, os.O_WRONLY)"])
def test_what_breaks_a_lease(path, fd, how):
    assert take_read_lease(fd) is Lease.GRANTED
    assert not lease_is_broken(fd)
    with process([sys.executable, "-c", f"import os; path = {str(path)!r}; {how}"]):
        wait_for(lambda: lease_is_broken(fd))
        release_lease(fd)


def test_what_we_do_ourselves_breaks_none(path, fd):
    assert take_read_lease(fd) is Lease.GRANTED
    path.chmod(0o444)
    os.utime(path)
    path.rename(f"{path}.aside")
    os.link(f"{path}.aside", path)
    os.unlink(f"{path}.aside")
    notation.run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(path), str(path))
    assert not lease_is_broken(fd)


def test_two_may_hold_read_leases(path, fd):
    other = os.open(path, os.O_RDONLY)
    assert take_read_lease(fd) is take_read_lease(other) is Lease.GRANTED
    os.close(other)


def test_no_signal_ends_or_wakes_us(path):
    """The signal must be set for each lease anew: giving one back makes the kernel forget it."""
    program = f"""
import os, sys, time
from batchdiff.image.in_use.lease import take_read_lease, release_lease, lease_is_broken
fd = os.open({str(path)!r}, os.O_RDONLY)
for _ in range(2):
    assert take_read_lease(fd).name == "GRANTED"
    print("ready", flush=True)
    input()
    assert lease_is_broken(fd)
    release_lease(fd)
print("done", flush=True)
"""
    with process([sys.executable, "-c", program]) as holder:
        for _ in range(2):
            assert holder.stdout.readline() == b"ready\n"
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_RDWR | os.O_NONBLOCK)
            holder.stdin.write(b"\n")
            holder.stdin.flush()
        assert holder.stdout.readline() == b"done\n"
        assert holder.wait(60) == 0


def test_only_the_owner_may_ask(fd):
    os.seteuid(NOBODY)
    try:
        assert take_read_lease(fd) is Lease.NOT_OURS
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("switch", "why"),
    [("0", "leases, which show who has it open, are disabled ({} is 0)"), ("1", ""), (None, "")],
)
def test_leases_that_are_disabled_show_nothing(fd, tmp_path, monkeypatch, switch, why):
    monkeypatch.setattr(lease, "_SWITCH", str(tmp_path / "leases-enable"))
    if switch is not None:
        (tmp_path / "leases-enable").write_text(f"{switch}\n")
    assert why_unknown(fd) == why.format(tmp_path / "leases-enable")


def test_none_on_block_devices(path):
    with real_holders.loop_device(path) as name:
        fd = os.open(name.split()[-1], os.O_RDONLY)
        assert take_read_lease(fd) is Lease.UNSUPPORTED
        os.close(fd)


def test_overlayfs_grants_leases_that_miss_the_layers_below(tmp_path):
    with ExitStack() as stack:
        where = stack.enter_context(tmpfs(tmp_path))
        for name in ("lower", "upper", "work", "all"):
            (where / name).mkdir()
        notation.write_raw(where / "upper/disk.img", "1M:A")
        options = f"lowerdir={where}/lower,upperdir={where}/upper,workdir={where}/work"
        notation.run("mount", "-t", "overlay", "-o", options, "overlay", str(where / "all"))
        stack.callback(subprocess.run, ["umount", where / "all"], check=True)
        fd = os.open(where / "all/disk.img", os.O_RDONLY)
        stack.callback(os.close, fd)
        stack.enter_context(real_holders.writer(where / "upper/disk.img"))
        assert take_read_lease(fd) is Lease.GRANTED
        assert why_unknown(fd) == "its filesystem (overlay) cannot show who has it open"


def test_a_signal_of_ours_still_arrives(path, fd):
    """Nothing was done to the signals of the process."""
    take_read_lease(fd)
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL
    with within(5), pytest.raises(BlockingIOError):
        os.open(path, os.O_RDWR | os.O_NONBLOCK)
    start = time.monotonic()
    time.sleep(0.05)
    assert time.monotonic() - start >= 0.05
