"""What an overlay has that an image rebuilt from it, or the original, would not have."""

from __future__ import annotations

from typing import TypeAlias

from batchdiff.applying.guests.commands import command
from batchdiff.choices import Loss
from batchdiff.errors import GuestError
from batchdiff.files.filenames import shell_word
from batchdiff.image.open import peek_header
from batchdiff.image_source import ImageFormat

LossesAllowed: TypeAlias = frozenset[Loss]


def counted_losses(path: str) -> dict[Loss, str]:
    """Return the internal snapshots and persistent bitmaps of a qcow2 file, each in words with their number.

    :raises ImageError: it is missing, or not a sound qcow2 image.
    """
    header = peek_header(path)
    counts = (
        (Loss.SNAPSHOTS, header.snapshots, "internal snapshot"),
        (Loss.BITMAPS, header.bitmaps, "persistent bitmap"),
    )
    return {loss: f"{count} {kind}{'' if count == 1 else 's'}" for loss, count, kind in counts if count}


def check_losses(guest: str, path: str, allowed: LossesAllowed) -> None:
    """Make sure that the overlay holds nothing but its content, or that the operator gives the rest up.

    :raises GuestError: it has snapshots or bitmaps that would be lost.
    :raises ImageError: it is not a sound qcow2 image.
    """
    lost = {loss: words for loss, words in counted_losses(path).items() if loss not in allowed}
    if lost:
        flags = [f"--allow-loss {loss}" for loss in lost]
        raise GuestError(
            f"the overlay {path} was left as it is",
            why=f"it has {' and '.join(lost.values())}, which would be lost with it",
            remedy=f"`qemu-img info {shell_word(path)}` lists what it has. To give that up:"
            f" {command('restore', guest, *flags)}.",
        )


def not_given_back(image_format: ImageFormat) -> list[str]:
    """Return what a rebuilt image cannot have of the original, in words."""
    if image_format is ImageFormat.RAW:
        return []
    return [
        "it is qcow2 version 3 with clusters of 64 KiB, not compressed and without a backing file, whatever the"
        " original was"
    ]
