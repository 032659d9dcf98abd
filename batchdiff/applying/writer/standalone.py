"""Write a standalone image, in any format, with the content of a chain."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchdiff.applying.writer.data_copy import Copier
from batchdiff.applying.writer.image_writer import NewImage, write_image
from batchdiff.applying.writer.stopping import stops
from batchdiff.extents import Extents, Kind, fold, from_runs
from batchdiff.files.read_write import write_all
from batchdiff.foreign import vmdk
from batchdiff.image.image import Image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.overlay_options import DEFAULT_CLUSTER_SIZE, OverlayOptions, geometry_of
from batchdiff.progress import ignore, summing
from batchdiff.qcow2.entries import Origin
from batchdiff.qemu import qemu_img
from batchdiff.units import MIB, SECTOR, ceil_div

_STRETCH = 1024 * MIB


def write_standalone(  # noqa: PLR0913  # options by keyword
    fd: int,
    image: Image,
    new: ImageSource,
    size: int,
    *,
    check: Callable[[], None],
    report: Callable[[int], None] = ignore,
) -> None:
    """Write an image's whole content to an empty file, which the caller must sync.

    ``new``: the image to write, with its final path. ``size``: bytes of a raw file, which a VM sees rounded up
    to a whole sector. ``report`` gets the number of bytes done so far.

    :raises ImageError: the image or a secret cannot be used.
    :raises ProgramError: QEMU cannot be run, or fails.
    :raises InUseError: another program is using an image.
    :raises StopError: ``check`` asked to stop.
    :raises OSError: a file cannot be opened, read or written.
    """
    if new.format is ImageFormat.RAW:
        Copier(fd, image, check, advance=summing(report)).copy(0, min(size, image.virtual_size), 0)
        os.ftruncate(fd, size)
        return
    if new.format is not ImageFormat.QCOW2 or new.secret_file is not None:
        whole = image.virtual_size
        qemu_img.convert(
            image.source,
            fd,
            new,
            whole,
            stopped=stops(check),
            percent=lambda percent: report(int(whole * percent / 100)),
        )
        if new.format is ImageFormat.VMDK:
            # QEMU does not read the name in the descriptor, but other programs may.
            descriptor = os.pread(fd, vmdk.TEXT_BYTES, vmdk.TEXT_AT)
            write_all(fd, vmdk.with_extent_name(descriptor, os.path.basename(new.path)), vmdk.TEXT_AT)
        return
    geometry = geometry_of(OverlayOptions(), DEFAULT_CLUSTER_SIZE)
    extents = fold(_content(image), geometry.cluster_size // SECTOR)
    advance = summing(report)
    # Areas that metadata shows to be zeros need no work.
    advance(max(image.virtual_size - extents.units(Kind.DATA) * geometry.cluster_size, 0))
    content = NewImage(virtual_size=image.virtual_size, geometry=geometry, extents=extents, backing=None)
    write_image(fd, image, content, check=check, advance=advance)


def _content(image: Image) -> Extents:
    """Return, as DATA in sectors, the parts that metadata does not show to be zeros."""
    runs: list[tuple[int, int, int]] = []
    at = image.next_data(0)
    while at is not None:
        end = min(at + _STRETCH, image.virtual_size)
        for segment in image.segments(at, end):
            if segment.origin is not Origin.ZERO:
                first = segment.start // SECTOR
                runs.append((first, ceil_div(segment.end, SECTOR) - first, Kind.DATA))
        at = image.next_data(end)
    return from_runs(runs)
