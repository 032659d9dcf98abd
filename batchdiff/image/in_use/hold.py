"""Holding an image, to keep QEMU from writing to it and to notice other writers.

::

    with hold(image, Purpose.GUEST) as held:     take locks and, if possible, a read lease; raise if in use
        ...                                      copy it, let qemu-img read it
        held.check()                             at each step: if there is a writer, let it in and raise
        held.is_broken()                         test only the leases, in microseconds
        held.alone()                             before the image is retired: look for readers, too

A program that opens a leased file for writing waits in open() until :meth:`Held.check` releases the lease (by
default, for at most 45 seconds). QEMU waits there before it looks at our locks. So a VM that is started meanwhile
gets its disk intact.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from batchdiff.image import formats  # noqa: F401  # loaded now: batchdiff may be updated during a long apply
from batchdiff.image.exported import end_exports
from batchdiff.image.files import is_block_device
from batchdiff.image.image import Image
from batchdiff.image.in_use import block_claims
from batchdiff.image.in_use.check import Purpose, Usage, check_usage, in_use, purposes, writers
from batchdiff.image.in_use.lease import Lease, is_ours_alone, lease_is_broken, release_lease
from batchdiff.image.in_use.open_files import have_open, holders_of
from batchdiff.image.in_use.qemu_locks import CHANGES, others_locks, release_locks, take_locks

_CLOSING_SECONDS = 2.0
"""Seconds to wait while a file is in use, but no process is found to have it open: if a program used io_uring, as
`qemu-img compare` does, the kernel closes its files only after it has ended."""

_NAMING_SECONDS = 0.5
"""Seconds to look for a writer that was let in: it needs a moment to return from open()."""


@dataclass(slots=True)
class _Grip:
    """The locks, lease and claim (a descriptor) on one file."""

    path: str
    fd: int
    purpose: Purpose
    leased: bool = False
    claim: int | None = None
    unknown: str = ""


class Held:
    """An image that is held."""

    def __init__(self) -> None:
        self._grips: list[_Grip] = []
        self._given_up: tuple[_Grip, str] | None = None

    @property
    def unknown(self) -> str:
        """The reason why a use of the image may go unnoticed; empty if there is none.

        A guest's backing files do not count.
        """
        return next(filter(None, (grip.unknown for grip in self._own())), "")

    def _own(self) -> list[_Grip]:
        """Return the grips on a guest without its backing files, or on a template's whole chain."""
        return [grip for grip in self._grips if grip.purpose is self._grips[0].purpose]

    def is_broken(self) -> bool:
        """Return whether the hold was given up, or a writer of a leased file is waiting or was let in."""
        return self._given_up is not None or any(grip.leased and lease_is_broken(grip.fd) for grip in self._grips)

    def check(self) -> None:
        """Release everything and raise an error if a program has opened a file for writing, or is waiting to.

        :raises GuestError, ImageError: a file is in use.
        """
        for grip in self._grips:
            if self._given_up is None:
                self._check(grip)
        if self._given_up is not None:
            grip, objection = self._given_up
            raise in_use(grip.path, grip.purpose, objection)

    def alone(self) -> Usage:
        """End exports of the image, and return its use by other programs, even for reading.

        A guest's backing files do not count. A second open() of a file by this process or its children may count
        as the use of another program.
        """
        own = self._own()
        for grip in own:
            end_exports(grip.fd)
        found = map(_alone, own)
        return next((usage for usage in found if usage.objection), Usage(unknown=self.unknown))

    def take(self, path: str, fd: int, purpose: Purpose) -> None:
        """Hold one more file.

        :raises GuestError, ImageError: it is in use.
        """
        grip = _Grip(path, fd, purpose)
        self._grips.append(grip)
        # Take our locks before looking at those of others, as QEMU does: of two programs that start at the same
        # time, at least one then sees the other.
        locked = take_locks(fd)
        usage = check_usage(fd, purpose)
        objection = usage.objection or ("" if locked else "something has locked it")
        grip.unknown = usage.unknown
        grip.leased = usage.leased
        if not objection and purpose is Purpose.GUEST and is_block_device(fd):
            grip.claim = block_claims.claim(fd)
            objection = block_claims.claimant(fd) if grip.claim is None else ""
        if objection:
            raise in_use(path, purpose, objection)

    def release(self) -> None:
        """Release everything; a second call is harmless."""
        for grip in self._grips:
            # Locks first: a program that waits for the lease must not find them when its open() returns.
            release_locks(grip.fd)
            release_lease(grip.fd)
            grip.leased = False
            if grip.claim is not None:
                os.close(grip.claim)
                grip.claim = None

    def _check(self, grip: _Grip) -> None:
        if grip.leased and lease_is_broken(grip.fd):
            self._give_up(grip, "something wanted to write to it", _named_soon)
        elif others_locks(grip.fd).may & CHANGES:
            self._give_up(grip, "something has it open for writing", writers)
        elif grip.unknown and (found := writers(grip.fd)):
            self._give_up(grip, found)

    def _give_up(self, grip: _Grip, objection: str, named: Callable[[int], str] = lambda _: "") -> None:
        self._given_up = grip, objection
        self.release()
        with contextlib.suppress(OSError):  # a limit is reached: the use is certain, the user is unknown
            self._given_up = grip, named(grip.fd) or objection


@contextlib.contextmanager
def hold(image: Image, purpose: Purpose) -> Iterator[Held]:
    """Hold every file of an open image's chain, through its own descriptors, until the ``with`` block ends.

    :raises GuestError, ImageError: a file is in use.
    """
    held = Held()
    try:
        for path, fd, what_for in purposes(image, purpose):
            held.take(path, fd, what_for)
        yield held
    finally:
        held.release()


def _alone(grip: _Grip) -> Usage:
    if not grip.leased:
        holders = holders_of(grip.fd)
        objection = have_open(holders.found, complete=True) if holders.found else ""
        return Usage(objection, grip.unknown)
    deadline = time.monotonic() + _CLOSING_SECONDS
    while (lease := is_ours_alone(grip.fd)) is not Lease.GRANTED:
        holders = holders_of(grip.fd)
        is_closing = lease is Lease.IN_USE and not holders.found and not lease_is_broken(grip.fd)
        if not is_closing or time.monotonic() > deadline:
            return Usage(have_open(holders.found, complete=holders.complete), grip.unknown)
        time.sleep(0.02)
    return Usage(unknown=grip.unknown)


def _named_soon(fd: int) -> str:
    deadline = time.monotonic() + _NAMING_SECONDS
    while time.monotonic() < deadline:
        found = writers(fd)
        if found:
            return found
        time.sleep(0.02)
    return ""
