"""QEMU's image locks, read from real QEMU programs and held against them."""

import errno
import os
import subprocess

import notation
import pytest
import real_holders
from real_holders import image_format, nbd_server, vm, vm_command

from batchdiff.image.in_use.qemu_locks import OthersLocks, Permission, others_locks, release_locks, take_locks

READ, WRITE, RESIZE = Permission.READ, Permission.WRITE, Permission.RESIZE
NOTHING = OthersLocks()


def locks(may, forbid):
    return OthersLocks(frozenset(may), frozenset(forbid))


@pytest.fixture(params=["disk.img", "disk.qcow2"])
def path(tmp_path, request):
    write = notation.write_qcow2 if request.param.endswith("qcow2") else notation.write_raw
    return write(tmp_path / request.param, "1M:A")


@pytest.fixture
def fd(path):
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_locks_of_a_vm(path, fd):
    assert others_locks(fd) == NOTHING
    with vm(path):
        expected = locks({READ, WRITE}, {WRITE})
        if path.suffix == ".qcow2":
            expected = locks({READ, WRITE, RESIZE}, {WRITE, RESIZE})
        assert others_locks(fd) == expected
    assert others_locks(fd) == NOTHING


def test_locks_of_a_vm_that_only_reads(path, fd):
    with vm(path, ",readonly=on"):
        assert others_locks(fd).may == {READ}


def test_locks_of_qemu_nbd(path, fd):
    with nbd_server(path):
        assert WRITE in others_locks(fd).may


def test_a_lock_that_is_not_qemus(path, fd):
    with real_holders.locker(path):
        assert others_locks(fd) == OthersLocks(foreign=True)
        assert not take_locks(fd)
    with real_holders.shared_locker(path):
        assert others_locks(fd) == OthersLocks(foreign=True)
    with real_holders.shared_locker(path, 100), real_holders.shared_locker(path, 0, 264):
        assert others_locks(fd) == NOTHING  # no concern of QEMU's
    assert take_locks(fd)


def test_locks_of_qemu_beside_another(path, fd):
    """As virtlockd takes one on the first byte of each disk of a VM."""
    with vm(path), real_holders.locker(path, 1):
        found = others_locks(fd)
    assert WRITE in found.may
    assert found.foreign


def test_ours_are_not_others(path, fd):
    assert take_locks(fd)
    assert others_locks(fd) == NOTHING
    other = os.open(path, os.O_RDONLY)
    assert others_locks(other) == locks({READ}, {WRITE, RESIZE})
    assert take_locks(other)  # two that only read are in nobody's way
    release_locks(fd)
    release_locks(other)
    assert others_locks(fd) == others_locks(other) == NOTHING
    os.close(other)


def test_qemu_cannot_write_while_they_are_held(path, fd):
    form = image_format(path)
    commands = [
        ["qemu-img", "resize", "-f", form, str(path), "+1M"],
        ["qemu-io", "-f", form, "-c", "write 0 512", str(path)],
        vm_command(path),
    ]
    take_locks(fd)
    before = path.read_bytes()
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert 'Failed to get "write" lock' in done.stderr
    assert path.read_bytes() == before
    release_locks(fd)
    for command in commands[:2]:
        notation.run(*command)


def test_qemu_reads_while_they_are_held(path, fd):
    assert take_locks(fd)
    form = image_format(path)
    notation.run("qemu-img", "compare", "-f", form, "-F", form, str(path), str(path))
    notation.run("qemu-img", "convert", "-f", form, "-O", "raw", str(path), f"{path}.copy")
    if form == "qcow2":
        notation.run("qemu-img", "check", str(path))
    with vm(path, ",readonly=on"), real_holders.vm_on_overlay(path):
        pass
    other = os.open(path, os.O_RDONLY)
    assert others_locks(other) == locks({READ}, {WRITE, RESIZE})  # they were there all the time
    os.close(other)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOMEM])
def test_without_locks_on_a_filesystem(fd, monkeypatch, number):
    """A limit is another matter: then the filesystem may have locks, and others may hold them."""

    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.fcntl", no_locks)
    if number == errno.ENOMEM:
        for ask in (others_locks, take_locks):
            with pytest.raises(OSError, match="Cannot allocate memory"):
                ask(fd)
    else:
        assert others_locks(fd) == OthersLocks(
            unknown="its filesystem does not support locks (No locks available)"
        )
        assert take_locks(fd)
    release_locks(fd)
