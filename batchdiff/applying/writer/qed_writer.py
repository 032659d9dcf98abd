"""Write a QED overlay, its header last."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchdiff.applying.writer.data_copy import Copier
from batchdiff.extents import Extents, Kind
from batchdiff.files.read_write import write_all
from batchdiff.foreign.qed_layout import qed_entries, qed_header, qed_layout
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.progress import ignore


@frozen
class NewQed:
    """The overlay to write. ``extents``, ``table_size``: in clusters. ``backing``: name and format."""

    virtual_size: int
    cluster_size: int
    table_size: int
    extents: Extents
    backing: tuple[str, str]


def write_qed(
    fd: int,
    guest: Image,
    new: NewQed,
    *,
    check: Callable[[], None],
    advance: Callable[[int], None] = ignore,
) -> None:
    """Write the overlay to an empty file, which the caller must sync.

    ``advance`` gets the number of further bytes done.

    :raises OSError: a file cannot be read or written.
    :raises ImageError: the guest cannot be read.
    :raises FormatError: the header does not fit.
    """
    layout = qed_layout(new.extents, new.virtual_size, new.cluster_size, new.table_size)
    header = qed_header(layout, new.backing)  # first: if it does not fit, no data should be copied
    # Set the size first: XFS preallocates space past the end of a growing file, and keeps it even in holes.
    os.ftruncate(fd, layout.file_size)
    copier = Copier(fd, guest, check, advance=advance)
    size, host = new.cluster_size, layout.data_offset
    for first, count in new.extents.pairs(Kind.DATA).tolist():
        copier.copy(first * size, (first + count) * size, host)
        host += count * size
    for offset, entries in qed_entries(new.extents, layout):
        write_all(fd, entries, offset)
    write_all(fd, header, 0)
