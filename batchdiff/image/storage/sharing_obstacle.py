"""The reason why a guest cannot share blocks with its template, and a remedy."""

from __future__ import annotations

from batchdiff.image.files import is_block_device
from batchdiff.image.image import Image
from batchdiff.image.layer import Layer
from batchdiff.linux.call_failures import Fault
from batchdiff.linux.mounts import filesystem_of
from batchdiff.linux.reflinks import NoSharing, why_not_shared

_INSTEAD = "Use `strategy: overlay` for this guest"


def obstacle_to_sharing(template: Image, guest: Image) -> Fault | None:
    """Return why no file of a guest can share blocks with any file of the template; None if one can.

    Of several reasons, return the one that is found first.
    """
    first: Fault | None = None
    for one in template.layers:
        for other in guest.own_files:
            reason = why_not_shared(one.fd, other.fd)
            if reason is None:
                return None
            first = first or _explained(reason, one, other)
    return first


def _explained(reason: NoSharing, template: Layer, guest: Layer) -> Fault:
    if reason is NoSharing.BLOCK_DEVICE:
        path = template.path if is_block_device(template.fd) else guest.path
        return Fault(f"only files can share blocks, and {path} is a block device", f"{_INSTEAD}.")
    if reason is NoSharing.TWO_FILESYSTEMS:
        return Fault(
            f"the template's file {template.path} is on another filesystem, and blocks can be shared only within"
            " one",
            f"{_INSTEAD}, or move template and guest to one XFS or btrfs filesystem and correct the manifest.",
        )
    if reason is NoSharing.CHECKSUMS:
        return Fault(
            f"only one of {template.path} and {guest.path} has the attribute C of `lsattr` (no copy-on-write, no"
            " checksums), and btrfs shares blocks only between files that both have it or both lack it",
            f"{_INSTEAD}, or copy the template to a new file whose attribute C matches the guest's (`chattr +C` or"
            " `chattr -C`, while the file is empty) and correct the manifest.",
        )
    kind = filesystem_of(guest.fd) or "this filesystem"
    if kind == "xfs":
        return Fault(
            "this XFS filesystem was made without reflinks (reflink=0), so files there cannot share blocks",
            f"{_INSTEAD}, or move template and guest to an XFS filesystem with reflinks or to btrfs.",
        )
    return Fault(
        f"{kind} cannot let existing files share blocks (FIDEDUPERANGE)",
        f"{_INSTEAD}, or move template and guest to XFS or btrfs.",
    )
