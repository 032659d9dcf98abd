"""The lowest priority for this process: disk in the idle class, CPU at nice 19.

Forked workers inherit both. glibc does not wrap ``ioprio_set``. Source: Linux ``Documentation/block/ioprio.rst``.
"""

from __future__ import annotations

import ctypes
import os
import platform

_NUMBERS = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282, "i686": 289}
"""The system call number of ``ioprio_set``, by machine. Source: the kernel's syscall tables."""

_THIS_PROCESS = (1, 0)
_IDLE = 3 << 13
"""IOPRIO_CLASS_IDLE, shifted as the kernel's macro IOPRIO_PRIO_VALUE shifts it."""

_LOWEST = 19


def lower_priority() -> str:
    """Lower the priority of this process for good; return the result in words."""
    nice = os.nice(_LOWEST)
    number = _NUMBERS.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None:
        return f"CPU priority nice {nice}; disk priority cannot be lowered on {platform.machine()}"
    if libc.syscall(number, *_THIS_PROCESS, _IDLE) != 0:
        why = os.strerror(ctypes.get_errno())
        return f"CPU priority nice {nice}; disk priority could not be lowered: {why}"
    return f"disk priority class idle, CPU priority nice {nice}"
