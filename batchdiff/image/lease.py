"""Leases: whether anybody has a file open, with locks or without, and a say before the next one writes to it.

::

    read lease     granted where nobody has the file open for writing: no loop device, no VM without locks
    write lease    granted where nobody else has it open at all: no VM that waits for a migration either

    another program: open(O_RDWR) ---- waits ----------------------------------+-> goes on
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

from batchdiff.image.mounts import filesystem_of

_SIGNAL = signal.SIGURG
"""What the kernel sends when a lease breaks. Its default, SIGIO, ends a process; SIGURG is ignored by default."""

_TELLING = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"}
"""Filesystems on which a lease sees everyone on this machine (tried). FUSE and overlayfs grant leases, too, but
see nobody who opens the file in the layer below (tried); network filesystems don't see other hosts."""


class Lease(enum.Enum):
    """How it went."""

    GRANTED = "granted"
    IN_USE = "somebody has it open"
    NOT_OURS = "only its owner or root may ask who has it open"
    UNSUPPORTED = "there are no leases to ask for (/proc/sys/fs/leases-enable)"


_ANSWERS = {errno.EAGAIN: Lease.IN_USE, errno.EACCES: Lease.NOT_OURS}


def why_unknown(fd: int) -> str:
    """Why no lease can tell who has a file open, before one is asked for; empty where it can."""
    filesystem = filesystem_of(fd)
    if filesystem in _TELLING:
        return ""
    return f"its filesystem ({filesystem or 'of an unknown type'}) cannot tell who has it open"


def take_read_lease(fd: int) -> Lease:
    """Asks that nobody opens the file for writing before we are told. ``fd`` must be open for reading only.

    NOT_OURS: not its owner, and without CAP_LEASE. UNSUPPORTED: on a device, for one.
    """
    return _take(fd, fcntl.F_RDLCK)


def is_ours_alone(fd: int) -> Lease:
    """Whether nobody else has the file open at all, this process's other descriptors and children included.

    A read lease stays, or comes to be.
    """
    found = _take(fd, fcntl.F_WRLCK)
    if found is Lease.GRANTED:
        # Back at once: even a reader would have to wait.
        return _take(fd, fcntl.F_RDLCK)
    return found


def lease_is_broken(fd: int) -> bool:
    """Whether somebody waits to write to a leased file, or has waited so long that he was let in."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK


def release_lease(fd: int) -> None:
    """Lets go on whoever waits; harmless without a lease."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _take(fd: int, kind: int) -> Lease:
    try:
        # Every time: giving a lease back makes the kernel forget the signal.
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return _ANSWERS.get(error.errno or 0, Lease.UNSUPPORTED)
    return Lease.GRANTED
