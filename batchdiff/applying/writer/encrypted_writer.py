"""Write an encrypted overlay: batchdiff lays it out, and QEMU writes the encrypted data.

::

    selection, in memory    a qcow2 file whose tables map the data clusters; its data file is the guest's disk
          |
          | qemu-img convert -n: reads these clusters, encrypts them, and writes them to their places
          v
    overlay     | header | LUKS header | tables | places for clusters | refcounts |

So no plaintext is written to a disk, and the file has the planned size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from batchdiff.applying.writer.image_writer import DataPlace, NewImage, write_image
from batchdiff.applying.writer.stopping import stops
from batchdiff.extents import Kind, only
from batchdiff.image.image import Image
from batchdiff.plan.overlay_options import Encryption, luks_options
from batchdiff.progress import ignore
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS
from batchdiff.qemu.encryption import encrypt, new_luks_header


def write_encrypted(  # noqa: PLR0913  # options by keyword
    fd: int,
    original: Image,
    new: NewImage,
    chosen: Encryption,
    *,
    check: Callable[[], None],
    advance: Callable[[int], None] = ignore,
) -> None:
    """Write the overlay to an empty file, which the caller must sync.

    ``advance`` gets the number of further bytes done.

    :raises OSError: a file cannot be opened or written.
    :raises ImageError: the original or a secret cannot be used.
    :raises FormatError: the header does not fit.
    :raises ProgramError: QEMU cannot be run, or fails.
    :raises InUseError: another program is using an image.
    :raises StopError: ``check`` asked to stop.
    """
    stopped = stops(check)
    header = new_luks_header(chosen.secret_file, luks_options(chosen), stopped=stopped)
    write_image(fd, original, replace(new, luks_header=header, place=DataPlace.RESERVED), check=check)
    size = new.extents.units(Kind.DATA) * new.geometry.granule
    selection = os.memfd_create("selection")
    try:
        only_tables = NewImage(
            virtual_size=new.virtual_size,
            # Only version 3 has external data files.
            geometry=replace(new.geometry, zero_flag=True, refcount_bits=DEFAULT_REFCOUNT_BITS),
            # The overlay's tables already mark zeros; if QEMU wrote the zeros, it would deallocate their clusters.
            extents=only(new.extents, Kind.DATA),
            backing=None,
            place=DataPlace.OUTSIDE,
        )
        write_image(selection, original, only_tables, check=check)
        encrypt(
            original.source,
            original.layers[0].fd,
            selection=selection,
            target=fd,
            virtual_size=new.virtual_size,
            secret_file=chosen.secret_file,
            stopped=stopped,
            percent=_advancing(advance, size),
        )
    finally:
        os.close(selection)


def _advancing(advance: Callable[[int], None], size: int) -> Callable[[float], None]:
    done = 0

    def reached(percent: float) -> None:
        nonlocal done
        before, done = done, max(done, int(size * percent / 100))
        advance(done - before)

    return reached
