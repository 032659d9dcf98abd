"""File leases, which show whether a file is open, and make the next writer wait.

::

    read lease     granted if no one has the file open for writing: no loop device, no VM without locks
    write lease    granted if no one else has it open at all: no VM that waits for a migration either

    another program: open(O_RDWR) ---- waits ----------------------------------+-> continues
    we:              lease_is_broken() is True -> give up -> release_lease() --+   after 45 s at the latest
                                                                                  (/proc/sys/fs/lease-break-time)

Source: fcntl(2), "Leases"; Linux ``fs/locks.c``.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import signal

from batchdiff.linux.mounts import filesystem_of

_SIGNAL = signal.SIGURG
"""Sent when a lease breaks. The default, SIGIO, would kill us; SIGURG is ignored."""

_RELIABLE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"}
"""Filesystems on which leases cover every program on this machine (tested). On FUSE and overlayfs, they miss
programs that open the file in the layer below (tested); on network filesystems, programs on other hosts."""


_SWITCH = "/proc/sys/fs/leases-enable"


class Lease(enum.Enum):
    """The answer to a request for a lease."""

    GRANTED = "granted"
    IN_USE = "another program has it open"
    NOT_OURS = "only its owner or root can check who has it open"
    UNSUPPORTED = "leases are disabled or not supported here (/proc/sys/fs/leases-enable)"


_ANSWERS = {errno.EAGAIN: Lease.IN_USE, errno.EACCES: Lease.NOT_OURS}


def are_disabled() -> bool:
    """Return whether leases are disabled on this machine; False if that is not known."""
    with contextlib.suppress(OSError), open(_SWITCH, encoding="ascii") as file:
        return file.read().strip() == "0"
    return False


def why_unknown(fd: int) -> str:
    """Return why leases cannot be relied on to show that a file is open; empty if they can."""
    if are_disabled():
        return f"leases, which show who has it open, are disabled ({_SWITCH} is 0)"
    filesystem = filesystem_of(fd)
    if filesystem in _RELIABLE:
        return ""
    return f"its filesystem ({filesystem or 'of an unknown type'}) cannot show who has it open"


def take_read_lease(fd: int) -> Lease:
    """Take a read lease; ``fd`` must be open for reading only."""
    return _take(fd, fcntl.F_RDLCK)


def is_ours_alone(fd: int) -> Lease:
    """Take a read lease if the file is open nowhere else.

    A second open() by this process counts; inherited copies of ``fd`` do not. If the result is not GRANTED, a
    lease may remain.
    """
    found = _take(fd, fcntl.F_WRLCK)
    if found is Lease.GRANTED:
        # Downgrade at once: under a write lease even a reader would have to wait.
        return _take(fd, fcntl.F_RDLCK)
    return found


def lease_is_broken(fd: int) -> bool:
    """Return whether a writer is breaking the read lease, or has broken it."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK


def release_lease(fd: int) -> None:
    """Release the lease, if there is one."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _take(fd: int, kind: int) -> Lease:
    try:
        # Set the signal every time, because the kernel forgets it when a lease is released.
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return _ANSWERS.get(error.errno or 0, Lease.UNSUPPORTED)
    return Lease.GRANTED
