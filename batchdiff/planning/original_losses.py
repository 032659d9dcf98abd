"""The losses of a conversion."""

from __future__ import annotations

from batchdiff.choices import Loss
from batchdiff.image.image import Image
from batchdiff.image.layer import Losses
from batchdiff.image.storage.preallocated import reserved_bytes
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.plan import OriginalLosses
from batchdiff.units import format_size


def original_losses(image: Image, known: ExtentTable | None) -> OriginalLosses:
    """Count an open guest's internal snapshots, persistent bitmaps and reserved bytes.

    ``known``: at least the unwritten extents of the guest's file; None if they are not known.

    :raises ImageError: the filesystem reports an error.
    """
    layer = image.layers[0]
    reserved = reserved_bytes(layer.fd, layer.path, layer.virtual_size, known=known)
    return OriginalLosses(layer.losses.snapshots, layer.losses.bitmaps, reserved)


def forbidden_loss(losses: Losses, allowed: frozenset[Loss], *, only_below: bool = False) -> str:
    """Return the objection to one loss that is not allowed; empty if all losses are allowed.

    ``only_below``: any encryption is that of an image below the guest's own.
    """
    if losses.encryption and Loss.ENCRYPTION not in allowed:
        encrypted = "partly encrypted (in an image below it)" if only_below else "encrypted"
        return (
            f"it is {encrypted}, and its overlay would not be: anyone who can read the overlay could read its"
            " data. `overlay: {encryption: ...}` encrypts the overlay too;"
            f" `allow_loss: [{Loss.ENCRYPTION}]` accepts an unencrypted overlay"
        )
    for what, count, kind in (
        (Loss.SNAPSHOTS, losses.snapshots, "internal snapshot"),
        (Loss.BITMAPS, losses.bitmaps, "persistent bitmap"),
    ):
        if count and what not in allowed:
            many = f"{count} {kind}{'' if count == 1 else 's'}"
            return f"it has {many}, which an overlay would lose. `allow_loss: [{what}]` accepts that"
    return ""


def forbidden_preallocation(losses: OriginalLosses, options: OverlayOptions, allowed: frozenset[Loss]) -> str:
    """Return the objection to losing reserved space; empty if none is lost, or if that is allowed."""
    reserves = options.preallocation.reserves_blocks
    if not losses.preallocated_bytes or reserves or Loss.PREALLOCATION in allowed:
        return ""
    return (
        f"it has {format_size(losses.preallocated_bytes)} preallocated (reserved on disk, and never written to),"
        f" which an overlay would lose. `allow_loss: [{Loss.PREALLOCATION}]` accepts that"
    )


def losses_of(image: Image, options: OverlayOptions) -> Losses:
    """Return what converting a guest would lose, reserved space aside.

    An unencrypted overlay loses the encryption of any file of the chain: it may store data from each of them.
    """
    is_encrypted = any(each.losses.encryption for each in image.layers)
    return image.layers[0].losses._replace(encryption=is_encrypted and options.encryption is None)
