"""Is an overlay with its template what the guest was? Three ways to ask; only the first may lead to a deletion.

full      qemu-img check, and qemu-img compare of every byte: QEMU's reader, not ours
changed   our reader, only where the overlay holds something
native    our reader, every byte
"""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import ImageError, ProgramError, VerificationError
from batchdiff.extents import Extents
from batchdiff.image import qemu_img
from batchdiff.image.files import is_block_device
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.image.source import ImageSource
from batchdiff.units import MIB


def require_judges(mode: VerifyMode) -> None:
    """Fails early where the judges are missing.

    :raises ProgramError: qemu-img is not installed.
    """
    if mode is VerifyMode.FULL and not qemu_img.is_installed():
        raise ProgramError(
            "cannot verify with QEMU",
            why="qemu-img is not installed",
            remedy="Install it (Debian: qemu-utils), or use `--verify native`, which lets no original be deleted.",
        )


def verify_overlay(
    guest: Image, overlay: ImageSource, mode: VerifyMode, *, written: Extents, granule: int
) -> None:
    """Compares an overlay with the original. ``overlay`` declares the template's chain below it.

    :raises VerificationError: it differs, or is damaged.
    :raises ProgramError: a judge could not be asked.
    """
    try:
        with open_image(overlay) as image:
            inspect(image)
            if image.virtual_size != guest.virtual_size:
                raise VerificationError(f"{overlay.path} has another virtual size than {guest.path}")
            if mode is VerifyMode.NATIVE or (mode is VerifyMode.CHANGED and _on_devices(guest, image)):
                _compare(guest, image, iter([(0, guest.virtual_size)]))
            elif mode is VerifyMode.CHANGED:
                _compare(guest, image, _ranges(written, granule, guest.virtual_size))
    except ImageError as error:
        raise VerificationError(f"{overlay.path} cannot be verified", why=str(error)) from error
    if mode is VerifyMode.FULL:
        qemu_img.check(overlay.path, guest.virtual_size)
        qemu_img.compare(guest.source, overlay, guest.virtual_size)


def _on_devices(*images: Image) -> bool:
    """Whether a fingerprint says nothing of the content: then what was not written must be compared, too."""
    return any(is_block_device(layer.fd) for image in images for layer in image.layers)


def _ranges(extents: Extents, granule: int, virtual_size: int) -> Iterator[tuple[int, int]]:
    for first, end in zip(extents.first.tolist(), extents.end.tolist(), strict=True):
        yield first * granule, min(end * granule, virtual_size)


def _compare(guest: Image, overlay: Image, ranges: Iterator[tuple[int, int]]) -> None:
    for start, end in ranges:
        at = start
        while at < end:
            at = min(_next_data(guest, at), _next_data(overlay, at))
            length = max(min(MIB, end - at), 0)
            if guest.read(at, length) != overlay.read(at, length):
                raise VerificationError(
                    f"{overlay.path} differs from {guest.path}",
                    why=f"somewhere in bytes {at} to {at + length}",
                    remedy="The original was left as it is. If its VM is running, shut it down and plan again.",
                )
            at += length


def _next_data(image: Image, at: int) -> int:
    found = image.next_data(at)
    return image.virtual_size if found is None else found
