"""The pages of a file that are in the page cache, determined by mincore on a mapping that is never accessed.

No page is faulted in. Source: mmap(2), mincore(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import numpy as np

PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_FAILED = ctypes.c_void_p(-1).value


def absent_runs(fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """Return the runs (start, end) of bytes from ``start`` to ``end`` that are not in the page cache.

    Ends are exclusive. ``start`` must be below ``end``, and both must be page boundaries. If the system cannot
    report which pages are cached, return the whole range.
    """
    length = end - start
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if address == _FAILED:
        return [(start, end)]
    resident = np.empty(length // PAGE, dtype=np.uint8)
    failed = _libc.mincore(address, length, resident.ctypes.data)
    _libc.munmap(address, length)
    if failed:
        return [(start, end)]
    if resident.all():
        return []
    edges = np.flatnonzero(np.diff(resident & 1, prepend=1, append=1))
    return [(start + first * PAGE, start + last * PAGE) for first, last in edges.reshape(-1, 2).tolist()]


def is_reliable(fd: int) -> bool:
    """Return whether mincore is known to report the truth.

    To an unprivileged user who neither owns a file nor may write to it, all its pages look resident.
    Source: ``can_do_mincore`` in Linux ``mm/mincore.c``, since 5.2.
    """
    if os.fstat(fd).st_uid == os.geteuid():
        return True
    try:
        return os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)
    except OSError as error:
        return error.errno == errno.ENOSYS
