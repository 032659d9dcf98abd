"""Checks for other processes that use an image in a way that its purpose does not allow.

::

    check                        finds
    QEMU's locks                 VMs, qemu-nbd and qemu-img on any filesystem with locks
    a read lease                 writers: VMs without locks, loop devices, other programs
    a write lease, then /proc    VMs that wait for an incoming migration, and have not locked the file yet
    an exclusive open, /proc     other uses of a block device, which has no leases

QEMU must not even read a guest, because the guest may then be a VM's disk or an overlay's backing file; other
readers are allowed. Processes on other hosts may go unnoticed.
"""

from __future__ import annotations

import enum
import os
from typing import NamedTuple

from batchdiff.errors import BatchdiffError, GuestError, ImageError, advice_on_limit
from batchdiff.image.files import is_block_device, open_image_file
from batchdiff.image.image import Image
from batchdiff.image.in_use import block_claims
from batchdiff.image.in_use.lease import Lease, is_ours_alone, release_lease, take_read_lease, why_unknown
from batchdiff.image.in_use.open_files import Holders, have_open, holders_of, name_holders
from batchdiff.image.in_use.qemu_locks import CHANGES, OthersLocks, Permission, others_locks

SHUT_DOWN_DOMAIN = (
    "Shut its VM down. If libvirt has saved the VM's memory, start the VM and then shut it down, or discard that"
    " memory with `virsh managedsave-remove DOMAIN`."
)


class Purpose(enum.Enum):
    """The role of an image, which decides how others may use it."""

    GUEST = "guest"
    """It may be retired: others must not write to it, and QEMU must not read it."""

    TEMPLATE = "template"
    """It stays: others must not write to it, but VMs may run on its overlays."""


class Usage(NamedTuple):
    """The use of a file by other processes.

    ``objection``: a clause about a use that is not allowed; empty if none is found. ``unknown``: why an empty
    ``objection`` may be wrong; empty if it is reliable. ``leased``: whether a read lease was left on the file.
    """

    objection: str = ""
    unknown: str = ""
    leased: bool = False


def purposes(image: Image, purpose: Purpose) -> list[tuple[str, int, Purpose]]:
    """Return each file's path, descriptor and purpose; backing files count as templates."""
    own = image.own_files
    return [(layer.path, layer.fd, purpose if layer in own else Purpose.TEMPLATE) for layer in image.layers]


def require_unused(image: Image, purpose: Purpose, *, domain: str = "") -> None:
    """Refuse an image if a file of its chain is in use in a way that is not allowed.

    ``domain``: a clause about the libvirt domain that uses the image; may be empty.

    :raises GuestError, ImageError: a file is in use, or ``domain`` is not empty.
    """
    if domain:
        raise GuestError(f"{image.path} is in use", why=domain, remedy=SHUT_DOWN_DOMAIN)
    for path, fd, what_for in purposes(image, purpose):
        try:
            usage = check_usage(fd, what_for)
        finally:
            release_lease(fd)
        if usage.objection:
            raise in_use(path, what_for, usage.objection)


def in_use(path: str, purpose: Purpose, objection: str) -> BatchdiffError:
    """Return the error for a file that is in use."""
    if purpose is Purpose.GUEST:
        return GuestError(
            f"{path} is in use",
            why=objection,
            remedy="Stop what is using it: shut down the VM, end the program, or unmount or detach the device.",
        )
    return ImageError(
        f"{path}, which must not change, is in use",
        path=path,
        why=objection,
        remedy="Stop what is using it: shut down the VM, end the program, or unmount or detach the device. VMs"
        " running on its overlays can stay up.",
    )


def check_usage(fd: int, purpose: Purpose) -> Usage:
    """Return how others use a file; may leave a read lease on it.

    :raises OSError: a limit on open files or memory is reached, or a block device cannot be opened again.
    """
    # QEMU's locks come first: they show the kind of use. A lease shows only that there is a writer, and /proc
    # shows only the processes that this user may see.
    locks = others_locks(fd)
    if objection := _by_locks(locks, fd, purpose):
        return Usage(objection)
    if is_block_device(fd):
        return _by_claims(fd, purpose)
    return _by_lease(fd, purpose, locks.unknown)


def users(path: str) -> str:
    """Return a clause about the users of an image, judging by locks alone; empty if none are found.

    :raises ImageError, OSError: a limit on open files or memory is reached.
    """
    try:
        fd = open_image_file(path)
    except ImageError as error:
        if advice_on_limit(error.__cause__):
            raise  # "nothing" would be a guess
        return ""
    try:
        return _by_locks(others_locks(fd), fd, Purpose.GUEST)
    finally:
        os.close(fd)


def other_writer(fd: int) -> str:
    """Return a clause about a program other than QEMU that can write to a file, or has locked or claimed it.

    Empty if none is found. QEMU is recognised by locks that permit changes, or by its program's name.

    :raises OSError: as for :func:`check_usage`.
    """
    try:
        usage = check_usage(fd, Purpose.TEMPLATE)
    finally:
        release_lease(fd)
    if not usage.objection or others_locks(fd).may & CHANGES:
        return ""
    found = holders_of(fd).writers()
    return "" if found and all(holder.is_vm for holder in found) else usage.objection


def writers(fd: int) -> str:
    """Return a clause about the programs that have a file open for writing; empty if none is found."""
    holders = holders_of(fd)
    return _writing(holders) if holders.writers() else ""


def _by_locks(locks: OthersLocks, fd: int, purpose: Purpose) -> str:
    if locks.may & CHANGES:
        return _writing(holders_of(fd))
    if locks.foreign:
        return f"it is locked, and {_open_in(fd)}"
    if Permission.READ in locks.forbid:
        return f"it is locked against readers, and {_open_in(fd)}"
    if purpose is Purpose.GUEST and Permission.READ in locks.may:
        return (
            f"it is being read by {_any_holder(fd)}: as a VM's disk, as an overlay's backing file, or for a copy"
        )
    return ""


def _by_claims(fd: int, purpose: Purpose) -> Usage:
    claimed = block_claims.claim(fd)
    if claimed is not None:
        os.close(claimed)
    elif purpose is Purpose.GUEST or not block_claims.is_only_mounted_read_only(fd):
        return Usage(block_claims.claimant(fd))
    return Usage(
        _by_holders(holders_of(fd), purpose), unknown="a process could open a block device without being noticed"
    )


def _by_lease(fd: int, purpose: Purpose, unknown: str) -> Usage:
    unknown = unknown or why_unknown(fd)
    lease = take_read_lease(fd)
    if lease is Lease.IN_USE:
        return Usage(_writing(holders_of(fd)))
    leased = lease is Lease.GRANTED
    if not leased:
        unknown = unknown or lease.value
    elif not unknown and (purpose is Purpose.TEMPLATE or is_ours_alone(fd) is Lease.GRANTED):
        return Usage(leased=True)
    return Usage(_by_holders(holders_of(fd), purpose), unknown, leased)


def _by_holders(holders: Holders, purpose: Purpose) -> str:
    if holders.writers():
        return _writing(holders)
    if purpose is Purpose.GUEST and holders.vms():
        vms = have_open(holders.vms(), complete=True)
        return f"{vms} (perhaps waiting for an incoming migration)"
    return ""


def _any_holder(fd: int) -> str:
    holders = holders_of(fd)
    return name_holders(holders.found, complete=holders.complete)


def _open_in(fd: int) -> str:
    holders = holders_of(fd)
    return have_open(holders.found, complete=holders.complete)


def _writing(holders: Holders) -> str:
    return f"{have_open(holders.writers(), complete=holders.complete)} for writing"
