"""The limit on open files.

Source: Linux ``getrlimit(2)``; ``Documentation/filesystems/proc.rst``, 1.1 (fd).
"""

from __future__ import annotations

import contextlib
import os
import resource

from batchdiff.errors import BatchdiffError

_FILES = "/proc/self/fd"

_MOST = 1 << 20
"""The meaning of "unlimited": by default, Linux allows no more (fs.nr_open)."""

_LEAST = 32
"""Further files that the limit must allow: converting a guest with two backing files takes 22."""


def require_descriptors() -> None:
    """Raise the limit on open files, and require that it is high enough.

    :raises BatchdiffError: the limit is too low, or /proc is not mounted.
    """
    if not os.path.isdir(_FILES):
        raise BatchdiffError(
            "/proc is not mounted",
            why="without it, batchdiff cannot see which processes have an image open",
            remedy="Mount it (`mount -t proc proc /proc`), and run the same command again.",
        )
    raise_descriptor_limit()
    free = free_descriptors()
    if free < _LEAST:
        raise BatchdiffError(
            "the limit on open files is too low",
            why=f"{free} more can be opened, but batchdiff needs {_LEAST}",
            remedy="Raise the limit (`ulimit -n`, `LimitNOFILE=` of a service), and run the same command again.",
        )


def raise_descriptor_limit() -> None:
    """Raise the soft limit on open files to the hard limit, if the system permits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # then keep the lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_descriptors() -> int:
    """Return how many more files this process can open now; 0 if that is unknown."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if soft == resource.RLIM_INFINITY else soft
    try:
        used = len(os.listdir(_FILES)) - 1  # less the one that lists them
    except OSError:  # no descriptor is left, or /proc is not mounted
        return 0
    return max(most - used, 0)
