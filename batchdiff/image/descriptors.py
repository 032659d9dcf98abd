"""How many files this process may have open, and how many more it can open now.

Source: Linux ``getrlimit(2)``; ``Documentation/filesystems/proc.rst``, 1.1 (fd).
"""

from __future__ import annotations

import contextlib
import os
import resource

from batchdiff.errors import BatchdiffError

_FILES = "/proc/self/fd"

_MOST = 1 << 20
"""What "unlimited" counts as: Linux allows no more (fs.nr_open)."""

_LEAST = 32
"""A guest that rests on two files is converted with 22 beside those that are open from the start: most of them are
the chains of the guests that are being verified, and pipes of qemu-img."""


def require_descriptors() -> None:
    """Raise the limit of open files, and look whether it is enough for a fleet of any size.

    :raises BatchdiffError: it is not, or /proc is missing, which says who has an image open.
    """
    if not os.path.isdir(_FILES):
        raise BatchdiffError(
            "/proc is not mounted",
            why="without it batchdiff cannot see who has an image open",
            remedy="Mount it (`mount -t proc proc /proc`), and run the same command again.",
        )
    raise_descriptor_limit()
    free = free_descriptors()
    if free < _LEAST:
        raise BatchdiffError(
            "the limit on open files is too low",
            why=f"{free} more can be opened, and batchdiff needs {_LEAST}",
            remedy="Raise it (`ulimit -n`, `LimitNOFILE=` of a service), and run the same command again.",
        )


def raise_descriptor_limit() -> None:
    """Let this process open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # then the lower limit is what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_descriptors() -> int:
    """Return how many more files this process may open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if soft == resource.RLIM_INFINITY else soft
    try:
        used = len(os.listdir(_FILES)) - 1  # less the one that lists them
    except OSError:  # there is none left even for that
        return 0
    return max(most - used, 0)
