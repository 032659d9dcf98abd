"""Compare the content of two images, in one of three modes; apply deletes originals only after ``full``.

::

    full      QEMU's reader: qemu-img check, if required, and qemu-img compare of every byte
    changed   our reader: the extents of an overlay just written; otherwise, or with a block device, every byte
    native    our reader: every byte
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from batchdiff.applying.checks.same_content import check_same_content
from batchdiff.choices import VerifyMode
from batchdiff.errors import (
    DifferenceError,
    ImageError,
    ProgramError,
    SecretError,
    VerificationError,
)
from batchdiff.extents import Extents
from batchdiff.frozen import frozen
from batchdiff.image.files import is_block_device
from batchdiff.image.image import Image
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.progress import ignore, summing
from batchdiff.qemu import qemu_img
from batchdiff.qemu.programs import never


class Check(enum.Enum):
    """The result that `qemu-img check` of an image must have; only qcow2 and QED are checked."""

    FLAWLESS = "it was just written: not even leaked clusters are allowed"
    LEAKS_ALLOWED = "a VM may have run on it and been killed: leaked clusters are harmless"
    NONE = "it is the original or, for purge, a rebuilt image: it is only compared"


@frozen
class Comparison:
    """The incoming and the outgoing image, to be compared.

    ``written``: the extents of an overlay that was just written, and their unit in bytes; None for others.
    """

    outgoing: ImageSource
    incoming: ImageSource
    written: tuple[Extents, int] | None = None
    check: Check = Check.FLAWLESS


def require_judges(instead: str = "") -> None:
    """Raise ProgramError if qemu-img is not installed; ``instead``: how to do without it."""
    if not qemu_img.is_installed():
        raise ProgramError(
            "cannot verify with QEMU",
            why="qemu-img is not installed",
            remedy=f"Install it (Debian: qemu-utils). {instead}".strip(),
        )


def verify(
    comparison: Comparison,
    mode: VerifyMode,
    ended: Callable[[], bool] = never,
    report: Callable[[int], None] = ignore,
) -> None:
    """Compare two images, each with its chain as declared.

    ``report`` gets the number of bytes compared so far.

    :raises DifferenceError: they differ.
    :raises VerificationError: one of them is damaged or unreadable.
    :raises SecretError: the secret of one cannot be used.
    :raises InUseError: one of them is in use.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises StopError: ``ended`` returned true.
    """
    outgoing, incoming = comparison.outgoing, comparison.incoming
    # Our inspection comes first: it refuses unsafe files that QEMU would open.
    try:
        with open_image(incoming) as new, open_image(outgoing) as old:
            inspect(new)
            if new.virtual_size != old.virtual_size:
                raise DifferenceError(
                    f"{incoming.path} and {outgoing.path} have different virtual sizes",
                    why=f"{new.virtual_size} and {old.virtual_size} bytes",
                )
            if mode is not VerifyMode.FULL:
                check_same_content(old, new, _to_read(comparison, mode, old, new), ended, summing(report))
    except SecretError:
        raise
    except ImageError as error:
        raise VerificationError(
            _unverified(comparison, error.path), why=error.reason, remedy=error.remedy
        ) from error
    if mode is VerifyMode.FULL:
        if comparison.check is not Check.NONE:
            _check(incoming, new.virtual_size, comparison.check, ended, report)
        size = new.virtual_size
        qemu_img.compare(
            outgoing, incoming, size, stopped=ended, percent=lambda percent: report(int(size * percent / 100))
        )


def _unverified(comparison: Comparison, faulty: str) -> str:
    outgoing, incoming = comparison.outgoing, comparison.incoming
    if faulty in set(outgoing.files) - set(incoming.files):
        return f"{incoming.path} cannot be compared with {outgoing.path}"
    return f"{incoming.path} cannot be verified"


def check_used(image: ImageSource, ended: Callable[[], bool], report: Callable[[int], None] = ignore) -> None:
    """Check the metadata of an image that a VM may have used; leaked clusters are allowed.

    ``report`` always gets 0: no data is read.

    :raises BatchdiffError: as for :func:`verify`, except DifferenceError.
    """
    try:
        with open_image(image) as opened:
            inspect(opened)
            virtual_size = opened.virtual_size
    except SecretError:
        raise
    except ImageError as error:
        raise VerificationError(
            f"{image.path} cannot be verified", why=error.reason, remedy=error.remedy
        ) from error
    _check(image, virtual_size, Check.LEAKS_ALLOWED, ended, report)


def _check(
    image: ImageSource,
    virtual_size: int,
    check: Check,
    ended: Callable[[], bool],
    report: Callable[[int], None],
) -> None:
    if image.format in {ImageFormat.QCOW2, ImageFormat.QED}:
        allowed = check is Check.LEAKS_ALLOWED
        qemu_img.check(
            image, virtual_size, leaks_allowed=allowed, stopped=ended, percent=lambda _percent: report(0)
        )


def _to_read(comparison: Comparison, mode: VerifyMode, *images: Image) -> Iterator[tuple[int, int]]:
    size = images[0].virtual_size
    # No fingerprint proves a block device's content, so all of it must be compared.
    on_devices = any(is_block_device(layer.fd) for image in images for layer in image.layers)
    if mode is VerifyMode.NATIVE or comparison.written is None or on_devices:
        yield 0, size
        return
    extents, unit = comparison.written
    for first, end in zip(extents.first.tolist(), extents.end.tolist(), strict=True):
        yield first * unit, min(end * unit, size)
