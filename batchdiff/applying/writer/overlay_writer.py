"""Write a guest's overlay in the format and with the options of its plan."""

from __future__ import annotations

from collections.abc import Callable

from batchdiff.applying.writer.encrypted_writer import write_encrypted
from batchdiff.applying.writer.image_writer import DataPlace, NewImage, write_image
from batchdiff.applying.writer.qed_writer import NewQed, write_qed
from batchdiff.extents import Extents
from batchdiff.image.image import Image
from batchdiff.plan.overlay_options import Compression, OverlayFormat
from batchdiff.plan.plan import GuestToConvert
from batchdiff.progress import ignore


def write_overlay(  # noqa: PLR0913  # options by keyword
    fd: int,
    original: Image,
    plan: GuestToConvert,
    content: tuple[Extents, tuple[str, str]],
    *,
    check: Callable[[], None],
    advance: Callable[[int], None] = ignore,
    data_fd: int | None = None,
) -> None:
    """Write the overlay to empty files, which the caller must sync.

    ``content``: extents in granules, and the template's name and format. ``advance`` gets the number of further
    bytes done.

    :raises OSError: a file cannot be opened, read or written.
    :raises ImageError: the original or a secret cannot be used.
    :raises FormatError: the header does not fit.
    :raises ProgramError: QEMU cannot be run, or fails.
    :raises InUseError: another program is using an image.
    :raises StopError: ``check`` asked to stop.
    """
    extents, backing = content
    options, virtual_size = plan.options, plan.image.virtual_size
    if options.format is OverlayFormat.QED:
        cluster = plan.diff.geometry.cluster_size
        qed = NewQed(virtual_size, cluster, options.table_size, extents, backing)
        write_qed(fd, original, qed, check=check, advance=advance)
        return
    new = NewImage(
        virtual_size=virtual_size,
        geometry=plan.diff.geometry,
        extents=extents,
        backing=backing,
        compress=options.compression is not Compression.NONE,
        lazy_refcounts=options.lazy_refcounts,
        preallocation=options.preallocation,
        compression_level=options.compression_level,
        data_file=options.data_file,
        place=DataPlace.INSIDE if options.data_file is None else DataPlace.OUTSIDE,
    )
    if options.encryption is None:
        write_image(fd, original, new, check=check, advance=advance, data_fd=data_fd)
    else:
        write_encrypted(fd, original, new, options.encryption, check=check, advance=advance)
