"""Do two images show their guest the same bytes? Three ways to ask; only the first may lead to a deletion.

full      qemu-img check, and qemu-img compare of every byte: QEMU's reader, not ours
changed   our reader, only what an overlay holds that was just written
native    our reader, every byte
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import ImageError, ProgramError, StopError, VerificationError
from batchdiff.extents import Extents
from batchdiff.image import qemu_img
from batchdiff.image.files import is_block_device
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.image.programs import never
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.units import MIB


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: the image that will go with the one that takes its place.

    ``written``: the extents of an overlay that was just written, and their unit; None where all must be read.
    """

    outgoing: ImageSource
    incoming: ImageSource
    written: tuple[Extents, int] | None = None


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


def verify(comparison: Comparison, mode: VerifyMode, ended: Callable[[], bool] = never) -> None:
    """Compares two images, each with its chain as declared; ended early once ``ended`` is true.

    :raises VerificationError: they differ, or one is damaged.
    :raises ProgramError: a judge could not be asked.
    :raises StopError: it was ended early.
    """
    outgoing, incoming = comparison.outgoing, comparison.incoming
    try:
        with open_image(incoming) as new, open_image(outgoing) as old:
            inspect(new)
            if new.virtual_size != old.virtual_size:
                raise VerificationError(f"{incoming.path} has another virtual size than {outgoing.path}")
            if mode is not VerifyMode.FULL:
                _compare(old, new, _to_read(comparison, mode, old, new), ended)
    except ImageError as error:
        raise VerificationError(f"{incoming.path} cannot be verified", why=str(error)) from error
    if mode is VerifyMode.FULL:
        if incoming.format is ImageFormat.QCOW2:
            qemu_img.check(incoming, new.virtual_size, stopped=ended)
        qemu_img.compare(outgoing, incoming, new.virtual_size, stopped=ended)


def _to_read(comparison: Comparison, mode: VerifyMode, *images: Image) -> Iterator[tuple[int, int]]:
    size = images[0].virtual_size
    # Of a block device a fingerprint says nothing: then what was not written must be compared, too.
    on_devices = any(is_block_device(layer.fd) for image in images for layer in image.layers)
    if mode is VerifyMode.NATIVE or comparison.written is None or on_devices:
        yield 0, size
        return
    extents, unit = comparison.written
    for first, end in zip(extents.first.tolist(), extents.end.tolist(), strict=True):
        yield first * unit, min(end * unit, size)


def _compare(old: Image, new: Image, ranges: Iterator[tuple[int, int]], ended: Callable[[], bool]) -> None:
    for start, end in ranges:
        at = start
        while at < end:
            if ended():
                raise StopError("interrupted")
            at = min(_next_data(old, at), _next_data(new, at))
            length = max(min(MIB, end - at), 0)
            if old.read(at, length) != new.read(at, length):
                raise VerificationError(
                    f"{new.path} differs from {old.path}",
                    why=f"somewhere in bytes {at} to {at + length}",
                    remedy="The original was left as it is. If its VM is running, shut it down and plan again.",
                )
            at += length


def _next_data(image: Image, at: int) -> int:
    found = image.next_data(at)
    return image.virtual_size if found is None else found
