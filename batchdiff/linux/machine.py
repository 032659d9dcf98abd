"""The CPUs and the memory that this process may use.

Source: Linux ``Documentation/filesystems/proc.rst``, 1.2 (meminfo); ``Documentation/admin-guide/cgroup-v2.rst``.
"""

from __future__ import annotations

import contextlib
import os

from batchdiff.units import KIB

_MEMORY_INFO = "/proc/meminfo"
_OWN_GROUPS = "/proc/self/cgroup"
_GROUPS = "/sys/fs/cgroup"


def usable_cpus() -> int:
    """Return the number of CPUs that this process may run on; CPU quotas are ignored."""
    return len(os.sched_getaffinity(0))


def available_memory() -> int | None:
    """Return the bytes available without swapping, within the limits of cgroups (v2); None if unknown.

    The memory that a cgroup uses is not subtracted from its limit: most of that memory may be page cache, which
    can be reclaimed.
    """
    known = [size for size in (_available(), *map(_limit, _own_groups())) if size is not None]
    return min(known, default=None)


def _available() -> int | None:
    with contextlib.suppress(OSError, ValueError), open(_MEMORY_INFO, encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * KIB
    return None


def _own_groups() -> list[str]:
    """Return the folders of this process's cgroup and of those above it."""
    with contextlib.suppress(OSError), open(_OWN_GROUPS, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::/"):
                names = line.removeprefix("0::/").strip().split("/")
                return [os.path.join(_GROUPS, *names[:depth]) for depth in range(len(names) + 1)]
    return []


def _limit(group: str) -> int | None:
    """Return a cgroup's memory limit in bytes; None if it is "max" or cannot be read."""
    with contextlib.suppress(OSError, ValueError), open(f"{group}/memory.max", encoding="ascii") as file:
        return int(file.read())
    return None
