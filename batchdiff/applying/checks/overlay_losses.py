"""What is lost when images are deleted, and how rebuilt images differ from their originals."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TypeAlias

from batchdiff.applying.guests.commands import command
from batchdiff.choices import Loss
from batchdiff.errors import GuestError
from batchdiff.files.filenames import shell_word
from batchdiff.image.layer import Losses
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.plan import GuestToConvert
from batchdiff.units import few, format_size

LossesAllowed: TypeAlias = frozenset[Loss]


def counted_losses(overlay: ImageSource) -> dict[Loss, str]:
    """Describe an overlay's internal snapshots and persistent bitmaps, as in ``2 internal snapshots``.

    :raises ImageError: the overlay cannot be opened.
    """
    with closing(open_layer(overlay)) as layer:
        return _counted(layer.losses)


def _counted(losses: Losses) -> dict[Loss, str]:
    counts = (
        (Loss.SNAPSHOTS, losses.snapshots, "internal snapshot"),
        (Loss.BITMAPS, losses.bitmaps, "persistent bitmap"),
    )
    return {loss: f"{count} {kind}{'' if count == 1 else 's'}" for loss, count, kind in counts if count}


def check_losses(guest: str, overlay: ImageSource, allowed: LossesAllowed) -> None:
    """Make sure that an overlay has no snapshots or bitmaps whose loss is not allowed.

    :raises GuestError: it has some.
    :raises ImageError: the overlay cannot be opened.
    """
    path, there = overlay.path, counted_losses(overlay)
    lost = {loss: words for loss, words in there.items() if loss not in allowed}
    if lost:
        flags = [f"--allow-loss {loss}" for loss in there]  # including those that were given
        raise GuestError(
            f"the overlay {path} was left unchanged",
            why=f"it has {' and '.join(lost.values())}, which would be lost with it",
            remedy=f"`qemu-img info {shell_word(path)}` shows the details. To accept that loss:"
            f" {command('restore', guest, *flags)}.",
        )


def lost_with_originals(guests: Iterable[GuestToConvert]) -> dict[str, list[str]]:
    """Describe what is lost if originals are deleted; return the names of the guests by description."""
    found: dict[str, list[str]] = {}
    for guest in guests:
        losses = guest.losses
        words = [*_counted(Losses(losses.snapshots, losses.bitmaps)).values()]
        if losses.preallocated_bytes:
            words.append(f"{format_size(losses.preallocated_bytes)} of preallocated space")
        if words:
            found.setdefault(few(words), []).append(guest.name)
    return found


def decrypted_by_rebuilding(guests: Iterable[GuestToConvert]) -> list[str]:
    """Return the names of guests whose overlays are encrypted, but whose rebuilt images would not be."""
    return [each.name for each in guests if each.options.encryption and each.source.secret_file is None]


def not_given_back(original: ImageSource) -> list[str]:
    """Describe the properties that a rebuilt image does not take from its original."""
    words = list(filter(None, [_REBUILT.get(original.format)]))
    if original.secret_file is not None:
        words.append(
            f"it will be encrypted with {_CIPHER} and have one key slot, for the secret in its secret file"
        )
    return [f"{each}, whatever the original was like" for each in words]


_CIPHER = "aes-256 in xts mode"
"""QEMU's default."""


_REBUILT = {
    ImageFormat.QCOW2: "it will be qcow2 version 3 with clusters of 64 KiB, uncompressed, with no backing file and"
    " no external data file",
    ImageFormat.QED: "it will have clusters of 64 KiB",
    ImageFormat.VMDK: "it will be one file (monolithicSparse) with grains of 64 KiB, the adapter type ide, and"
    " a new content ID",
    ImageFormat.VDI: "it will be dynamic and have a new UUID",
    ImageFormat.VPC: "it will be dynamic and have a new UUID and geometry",
    ImageFormat.VHDX: "it will be dynamic with blocks of 1 MiB, sectors of 512 bytes, and new GUIDs",
    ImageFormat.PARALLELS: "it will have clusters of 1 MiB",
}
