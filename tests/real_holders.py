"""Real programs that have an image open, as they do on a host: VMs, qemu-nbd, loop devices, plain writers.

Each is a context manager: inside, the image is in use; afterwards nothing is left running.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from notation import run

from batchdiff.errors import GuestError, ImageError
from batchdiff.image.in_use.check import Purpose

REFUSED = {Purpose.GUEST: GuestError, Purpose.TEMPLATE: ImageError}
"""The error for an image in use, by its role."""

Holding = Callable[[Path], AbstractContextManager[str]]
"""Has the image open; gives a part of the name that it must be called by."""

_VM = ("qemu-system-x86_64", "-machine", "microvm,accel=tcg", "-m", "16", "-S", "-display", "none", "-nodefaults")


def image_format(path: Path) -> str:
    return "qcow2" if path.suffix == ".qcow2" else "raw"


def vm_command(path: Path, options: str = "", *arguments: str) -> list[str]:
    """A VM with the image as its disk. Its CPUs never run: QEMU has opened the disk all the same."""
    drive = f"file={path},format={image_format(path)},if=none,id=disk{options}"
    return [*_VM, "-name", "guest=web01", "-drive", drive, "-device", "virtio-blk-device,drive=disk", *arguments]


@contextlib.contextmanager
def running(argv: list[str], ready: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said ``ready`` as the beginning of its first line."""
    with process(argv) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith(ready), (argv, line, started.communicate(timeout=10))
        yield started


@contextlib.contextmanager
def process(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program, ready or not; it is killed at the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as started:
        try:
            yield started
        finally:
            started.kill()


@contextlib.contextmanager
def vm(path: Path, options: str = "", *arguments: str) -> Iterator[str]:
    with running([*vm_command(path, options, *arguments), "-qmp", "stdio"], b'{"QMP"') as started:
        # It greets before it has made its devices, and answers after.
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write(b'{"execute": "qmp_capabilities"}')
        started.stdin.flush()
        assert started.stdout.readline().startswith(b'{"return"')
        yield f"qemu-system-x86_64 (pid {started.pid}, VM web01)"


def vm_without_locks(path: Path) -> AbstractContextManager[str]:
    return vm(path, ",file.locking=off")


def vm_that_reads(path: Path) -> AbstractContextManager[str]:
    return vm(path, ",readonly=on")


def vm_waiting_for_migration(path: Path) -> AbstractContextManager[str]:
    return vm(path, "", "-incoming", "defer")


@contextlib.contextmanager
def vm_on_overlay(path: Path) -> Iterator[str]:
    """A VM whose disk is an overlay that rests on the image."""
    overlay = path.with_name(f"{path.name}.vm.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(path), "-F", image_format(path), str(overlay))
    with vm(overlay) as name:
        yield name
    overlay.unlink()


@contextlib.contextmanager
def nbd_server(path: Path, *arguments: str) -> Iterator[str]:
    place = path.with_name("nbd.sock")
    argv = ["qemu-nbd", "-t", "-k", str(place), "-f", image_format(path), *arguments, str(path)]
    with process(argv) as started, socket.socket(socket.AF_UNIX) as client:
        wait_for(lambda: place.exists() or started.poll() is not None)
        # It listens before it has opened the image, and greets after.
        client.settimeout(10)
        wait_for(lambda: client.connect_ex(str(place)) == 0)
        assert client.recv(8) == b"NBDMAGIC"
        yield f"qemu-nbd (pid {started.pid})"
    place.unlink(missing_ok=True)


@contextlib.contextmanager
def loop_device(path: Path, *arguments: str) -> Iterator[str]:
    device = run("losetup", *arguments, "--find", "--show", str(path)).strip()
    try:
        yield f"the loop device {device}"
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def opened(path: Path, how: str) -> Iterator[str]:
    """Another process of Python that has it open; ``how`` is Python with ``path``."""
    program = f"import fcntl, mmap, os; path = {str(path)!r}; {how}; print('ready', flush=True); input()"
    with running([sys.executable, "-c", program], b"ready") as started:
        yield f"(pid {started.pid})"


def writer(path: Path) -> AbstractContextManager[str]:
    return opened(path, "os.open(path, os.O_RDWR)")


def appender(path: Path) -> AbstractContextManager[str]:
    return opened(path, "os.open(path, os.O_WRONLY | os.O_APPEND)")


def reader(path: Path) -> AbstractContextManager[str]:
    return opened(path, "os.open(path, os.O_RDONLY)")


def locker(path: Path, length: int = 0) -> AbstractContextManager[str]:
    """Has its first bytes locked, 0 for all, in a way that is not QEMU's; open for writing, as that needs."""
    return opened(path, f"fcntl.lockf(os.open(path, os.O_RDWR), fcntl.LOCK_EX, {length})")


def shared_locker(path: Path, length: int = 0, start: int = 0) -> AbstractContextManager[str]:
    """Has bytes locked, 0 for all, as a program may that only reads; bytes 100 to 263 are those of QEMU."""
    return opened(path, f"fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH, {length}, {start})")


@contextlib.contextmanager
def mapping(path: Path) -> Iterator[str]:
    """Memory that is the file's, without a descriptor."""
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, mmap.PAGESIZE):
        os.close(fd)
        yield "something"


WRITERS: dict[str, Holding] = {
    "vm": vm,
    "vm-without-locks": vm_without_locks,
    "qemu-nbd": nbd_server,
    "loop-device": loop_device,
    "writer": writer,
    "appender": appender,
}
READERS: dict[str, Holding] = {
    "vm-that-reads": vm_that_reads,
    "vm-on-overlay": vm_on_overlay,
    "vm-waiting-for-migration": vm_waiting_for_migration,
    "qemu-nbd-that-reads": lambda path: nbd_server(path, "-r"),
}
"""Who is in the way of a guest, not of a template."""

HARMLESS: dict[str, Holding] = {
    "reader": reader,
    "read-only-loop-device": lambda path: loop_device(path, "--read-only"),
}


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something is so; how long it may take says nothing, for the machine may be busy."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
