import errno
import os
import sys
from pathlib import Path

import notation
import pytest
import real_holders
from filesystems import among_own_mounts

from batchdiff.image.in_use.open_files import Access, Holder, have_open, holders_of, name_holders

NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return notation.write_raw(tmp_path / "disk.img", "1M:A")


@pytest.fixture
def fd(path):
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


CASES = {
    "vm": (real_holders.vm, Access.WRITE, True),
    "vm-that-reads": (real_holders.vm_that_reads, Access.READ, True),
    "qemu-nbd": (real_holders.nbd_server, Access.WRITE, False),
    "loop-device": (real_holders.loop_device, Access.WRITE, False),
    "read-only-loop-device": (lambda path: real_holders.loop_device(path, "--read-only"), Access.READ, False),
    "appender": (real_holders.appender, Access.WRITE, False),
    "reader": (real_holders.reader, Access.READ, False),
}


def test_a_fork_of_ours_holds_nothing(fd):
    """It has all that is open here until it starts its program; the guard of a lease would take it for a user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        assert holders_of(fd).found == ()
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("missing", ["/cmdline", "/stat", "/sys/block", "/loop/backing_file"])
def test_a_limit_is_no_reason_to_miss_a_holder(path, fd, missing, monkeypatch):
    """Without its command line, a VM looks like any program; without the list of devices, none has it open."""

    def limited(real):
        def call(name, *args, **kwargs):
            if str(name).endswith(missing):
                raise OSError(errno.EMFILE, "Too many open files", name)
            return real(name, *args, **kwargs)

        return call

    with real_holders.vm_that_reads(path), real_holders.loop_device(path, "--read-only"):
        monkeypatch.setattr("builtins.open", limited(open))
        monkeypatch.setattr("os.listdir", limited(os.listdir))
        monkeypatch.setattr("os.scandir", limited(os.scandir))
        with pytest.raises(OSError, match="Too many open files"):
            holders_of(fd)


@pytest.mark.parametrize(("holding", "access", "is_vm"), CASES.values(), ids=CASES)
def test_who_has_it_open(path, fd, holding, access, is_vm):
    with holding(path) as name:
        found = holders_of(fd)
        (holder,) = found.found
        assert name in holder.name
        assert (holder.access, holder.is_vm) == (access, is_vm)
        assert bool(found.writers()) == (access is Access.WRITE)
        assert bool(found.vms()) == is_vm
    assert holders_of(fd).found == ()


def test_this_process_does_not_count(path, fd):
    with path.open("r+b"):
        assert holders_of(fd).found == ()


LOOK = """
import os, sys
from batchdiff.image.in_use.open_files import holders_of, name_holders
fd = os.open(sys.argv[1], os.O_RDONLY)
found = holders_of(fd)
print(name_holders(found.found, complete=found.complete))
"""


def test_where_proc_has_another_number_for_this_process(path):
    """As in a container that sees the machine's /proc: its processes have two numbers."""
    with real_holders.writer(path) as pid:
        assert pid in notation.run("unshare", "--pid", "--fork", sys.executable, "-c", LOOK, str(path))


def test_without_proc(path):
    hide = 'mount -t tmpfs batchdiff-tests "$0" && exec "$@"'
    with real_holders.writer(path):
        said = notation.run(*among_own_mounts(Path("/proc"), hide, sys.executable, "-c", LOOK, str(path)))
    assert said == "an unknown process (outside this container, perhaps)\n"


def test_a_device_by_another_node(path, tmp_path):
    with real_holders.loop_device(path) as name:
        device = name.split()[-1]
        fd = os.open(device, os.O_RDONLY)
        other = tmp_path / "node"
        os.mknod(other, 0o60600, os.fstat(fd).st_rdev)
        with real_holders.writer(other) as pid:
            # udev may have it open for a moment, too.
            assert pid in " ".join(holder.name for holder in holders_of(fd).found)
        os.close(fd)


def test_without_the_right_to_look(path, fd):
    path.chmod(0o644)
    with real_holders.writer(path):
        os.seteuid(NOBODY)
        try:
            found = holders_of(fd)
            assert name_holders((), complete=False) == "an unknown process (run as root to see which)"
        finally:
            os.seteuid(0)
    assert found.found == ()
    assert not found.complete


def test_names_of_several(path, fd):
    with real_holders.reader(path), real_holders.writer(path):
        found = holders_of(fd)
        assert name_holders(found.found, complete=True).count("(pid ") == 2
        assert " and " in name_holders(found.found, complete=True)
        assert len(found.writers()) == 1


def test_names_of_three():
    holders = tuple(Holder(name, Access.READ) for name in ("kvm (pid 1)", "cat (pid 2)", "dd (pid 3)"))
    assert have_open(holders, complete=True) == "kvm (pid 1), cat (pid 2) and dd (pid 3) have it open"
    assert have_open(holders[:1], complete=True) == "kvm (pid 1) has it open"


def test_without_a_free_descriptor_absence_is_not_claimed(path, fd, monkeypatch):
    """What cannot be looked at might be a VM's."""
    real, asked = open, []

    def limited(name, *args, **kwargs):
        if str(name).startswith("/proc/"):
            asked.append(name)
            if len(asked) > 3:
                raise OSError(errno.EMFILE, "Too many open files", name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.open", limited)
    with pytest.raises(OSError, match="Too many open files"):
        holders_of(fd)
