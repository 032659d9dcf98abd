"""The machine: its description, and functions that put its disks and page cache into a known state."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass

from batchdiff.units import format_size

_DROP_CACHES = "/proc/sys/vm/drop_caches"
_SETTLED = 0.5
"""Seconds; XFS frees the space of deleted files in the background, within tens of milliseconds."""


def described() -> str:
    """Return one line that describes the machine and its software."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    cores, python = len(os.sched_getaffinity(0)), platform.python_version()
    linux = platform.release().split("-")[0]
    return f"{cores} x {model}, {format_size(memory)}, Linux {linux}, Python {python}, QEMU {qemu}"


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds since some moment.

    ``wall``: clock time; ``all``: processor time of all processes; ``own``: that of this one and its children.
    """

    wall: float
    all: float
    own: float

    def others_share_since(self, before: Work) -> float:
        """Return the share of processor time that other work took since an earlier moment.

        A few per cent are for what the kernel does on behalf of the benchmark.
        """
        others = (self.all - before.all) - (self.own - before.own)
        return max(others, 0.0) / ((self.wall - before.wall) * (os.cpu_count() or 1))


def work() -> Work:
    """Return the work done up to now."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return Work(time.monotonic(), busy, sum(os.times()[:4]))


def can_drop_caches() -> bool:
    """Return True if runs with a cold cache are possible here."""
    return os.access(_DROP_CACHES, os.W_OK)


def settle(folder: str) -> None:
    """Sync a folder's filesystem, so that no run pays for writes of the one before."""
    subprocess.run(["sync", "-f", folder], check=True)


def drop_caches(folder: str) -> None:
    """Sync a folder's filesystem and empty the page cache; needs root."""
    settle(folder)
    with open(_DROP_CACHES, "w", encoding="ascii") as file:
        file.write("3")


def free_bytes(folder: str) -> int:
    """Return the free bytes of a folder's filesystem, as df counts them, once they no longer change."""
    before = -1
    while True:
        settle(folder)
        status = os.statvfs(folder)
        found = status.f_bfree * status.f_frsize
        if found == before:
            return found
        before = found
        time.sleep(_SETTLED)
