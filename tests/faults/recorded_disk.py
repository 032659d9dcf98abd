"""A disk that remembers every write and flush, so that each state that a power cut could leave can be made.

::

    filesystem -> loop device -> file in FUSE (nbdfuse) -> nbdkit -> the disk's file, and its log

    log     W W F W W W F W ...        W write, F flush
    state   a prefix of it; of the writes since its last flush any may be missing: a disk's cache forgets
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filesystems import MAKE
from notation import run
from real_holders import wait_for

_RECORD = struct.Struct("<QQ")
_PLUGIN = Path(__file__).with_name("recording_plugin.py")


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


FLUSH = Write(0, b"")


@dataclass(frozen=True)
class Recorded:
    """Where the filesystem is mounted, the disk's file and its log."""

    point: Path
    disk: Path
    log: Path


@contextlib.contextmanager
def recorded(folder: Path, kind: str, size: int) -> Iterator[Recorded]:
    """A fresh filesystem on a recorded disk, mounted."""
    disk, log, fuse, point = (folder / name for name in ("disk", "log", "fuse", "mnt"))
    for path in (fuse, point):
        path.mkdir()
    with disk.open("wb") as file:
        file.truncate(size)
    run(*MAKE[kind], str(disk))
    server = ["nbdkit", "-s", "python", str(_PLUGIN), f"disk={disk}", f"log={log}"]
    with subprocess.Popen(["nbdfuse", str(fuse), "--command", *server]) as daemon:
        try:
            wait_for((fuse / "nbd").exists)
            device = run("losetup", "--find", "--show", str(fuse / "nbd")).strip()
            try:
                run("mount", device, str(point))
                try:
                    yield Recorded(point, disk, log)
                finally:
                    subprocess.run(["umount", str(point)], check=True, timeout=120)
            finally:
                run("losetup", "--detach", device)
        finally:
            subprocess.run(["fusermount3", "-u", str(fuse)], check=False, timeout=60)
            daemon.wait(60)


def records(log: Path) -> list[Write]:
    """What a log holds."""
    whole = log.read_bytes()
    found, at = [], 0
    while at < len(whole):
        offset, length = _RECORD.unpack_from(whole, at)
        at += _RECORD.size
        found.append(Write(offset, whole[at : at + length]) if length else FLUSH)
        at += length
    return found


def after_power_cut(written: list[Write], rng: random.Random | None) -> list[Write]:
    """What of these writes a disk has: all, or by chance not all since the last flush."""
    if rng is None:
        return written
    last = max((number for number, write in enumerate(written) if write is FLUSH), default=-1)
    return written[: last + 1] + [write for write in written[last + 1 :] if rng.random() < 0.5]


@contextlib.contextmanager
def state(before: Path, written: list[Write], folder: Path) -> Iterator[Path]:
    """The disk as it was before, with these writes, mounted; its filesystem repairs itself as after a crash."""
    # Where it was mounted before: the overlays name their template by its absolute path.
    disk, point = folder / "state", folder / "mnt"
    run("cp", "--sparse=always", str(before), str(disk))
    fd = os.open(disk, os.O_RDWR)
    for write in written:
        if write is not FLUSH:
            os.pwrite(fd, write.data, write.offset)
    os.close(fd)
    options = "loop,nouuid" if "xfs" in run("blkid", "-o", "value", "-s", "TYPE", str(disk)) else "loop"
    run("mount", "-o", options, str(disk), str(point))
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=120)
        disk.unlink()


def snapshot(recording: Recorded, target: Path) -> int:
    """The disk as it is now, all of it durable; how many records there are so far."""
    os.sync()
    shutil.copyfile(recording.disk, target)
    return len(records(recording.log))
