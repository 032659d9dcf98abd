"""Write a qcow2 image: an overlay on a template, or a standalone image.

This module writes the header last: until then, the file is not a qcow2 image.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable

from batchdiff.applying.writer.data_copy import Copier
from batchdiff.applying.writer.data_stores import (
    CompressedStore,
    DataStore,
    OutsideStore,
    PlainStore,
    UnwrittenStore,
)
from batchdiff.applying.writer.preallocation import preallocate
from batchdiff.extents import Extents
from batchdiff.files.read_write import write_all
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.plan.overlay_options import Preallocation
from batchdiff.progress import ignore
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.layout import Layout, header_for, layout_for, plan_layout
from batchdiff.qcow2.layout_options import LayoutOptions
from batchdiff.qcow2.tables import l1_table, refcount_table, refcounts, table_batches
from batchdiff.units import KIB, ceil_div

_PAGE = 4 * KIB


class DataPlace(enum.Enum):
    """The place of a new image's data clusters."""

    INSIDE = "in the file"
    RESERVED = "in the file, but another program writes them later"
    OUTSIDE = "in another file, each at the offset that it has on the disk"


@frozen
class NewImage:
    """The image to write. ``extents``: in granules. ``backing``: name and format.

    ``luks_header``: empty without encryption. ``compression_level``: None for the default.
    """

    virtual_size: int
    geometry: Geometry
    extents: Extents
    backing: tuple[str, str] | None
    compress: bool = False
    lazy_refcounts: bool = False
    preallocation: Preallocation = Preallocation.OFF
    place: DataPlace = DataPlace.INSIDE
    luks_header: bytes = b""
    compression_level: int | None = None
    data_file: str | None = None

    @property
    def layout_options(self) -> LayoutOptions:
        """The options for the file's layout."""
        return LayoutOptions(
            luks_bytes=len(self.luks_header),
            preallocated=self.preallocation is not Preallocation.OFF,
            outside=self.place is DataPlace.OUTSIDE,
        )


def _never() -> None:
    """Never end a write early."""


def write_image(  # noqa: PLR0913  # options by keyword
    fd: int,
    guest: Image,
    new: NewImage,
    *,
    check: Callable[[], None] = _never,
    advance: Callable[[int], None] = ignore,
    data_fd: int | None = None,
) -> int:
    """Write the image to empty files, which the caller must sync; return the size of the image's own file.

    ``advance`` gets the number of further bytes done. ``data_fd``: the external data file, if any.

    :raises OSError: a file cannot be read or written.
    :raises ImageError: the guest cannot be read.
    :raises FormatError: the header does not fit.
    """
    layout = layout_for(new.extents, new.virtual_size, new.geometry, new.layout_options)
    # First: if the header does not fit, no data should be copied.
    _header(layout, new)
    if not new.compress:
        # Set the size first: XFS preallocates space past the end of a growing file, and keeps it even in holes.
        own = Preallocation.OFF if new.place is DataPlace.OUTSIDE else new.preallocation
        preallocate(fd, layout.file_size, own, check)
    if data_fd is None:
        store = _store(Copier(fd, guest, check, _may_share(new), advance), new, layout.data_offset)
    else:
        # Make the data file as long as the disk, as QEMU does: a shorter one may count as truncated.
        preallocate(data_fd, new.virtual_size, new.preallocation, check)
        copier = Copier(data_fd, guest, check, _may_share(new), advance)
        store = OutsideStore(copier, new.geometry, layout.data_offset)
    clusters = ceil_div(new.virtual_size, new.geometry.cluster_size) if layout.options.preallocated else 0
    for batch in table_batches(new.extents, new.geometry, preallocated=clusters):
        hosts = store.store(batch.extents, batch.data_clusters())
        write_all(fd, batch.encoded(hosts), layout.l2_offset + batch.position * new.geometry.cluster_size)
    final = _final(layout, store, new)
    _write_metadata(fd, final, store, new)
    return final.file_size


def _may_share(new: NewImage) -> bool:
    # A VM's first write to a shared block copies it, which takes new space despite the preallocation.
    return new.preallocation in {Preallocation.OFF, Preallocation.METADATA}


def _store(copier: Copier, new: NewImage, start: int) -> DataStore:
    if new.place is not DataPlace.INSIDE:
        return UnwrittenStore(new.geometry, start, outside=new.place is DataPlace.OUTSIDE)
    if new.compress:
        return CompressedStore(copier, new.geometry, start, level=new.compression_level)
    return PlainStore(copier, new.geometry, start)


def _header(layout: Layout, new: NewImage) -> bytes:
    return header_for(
        layout,
        new.virtual_size,
        backing=new.backing,
        lazy_refcounts=new.lazy_refcounts,
        data_file=new.data_file,
    )


def _final(layout: Layout, store: DataStore, new: NewImage) -> Layout:
    stored = (store.end - layout.data_offset) // new.geometry.cluster_size
    return plan_layout(
        new.virtual_size,
        new.geometry,
        l2_tables=layout.l2_tables,
        data_clusters=stored,
        options=new.layout_options,
    )


def _write_metadata(fd: int, layout: Layout, store: DataStore, new: NewImage) -> None:
    os.ftruncate(fd, layout.file_size)
    for offset, counts in refcounts(layout, store.refcounts()):
        write_all(fd, counts, offset)
    write_all(fd, refcount_table(layout), layout.refcount_table_offset)
    write_all(fd, l1_table(new.extents, layout), layout.l1_offset)
    _write_luks_header(fd, layout.luks_offset, new.luks_header)
    write_all(fd, _header(layout, new), 0)


def _write_luks_header(fd: int, offset: int, header: bytes) -> None:
    """Write a LUKS header without its pages of zeros: all key slots but one are empty."""
    for at in range(0, len(header), _PAGE):
        page = header[at : at + _PAGE]
        if page.strip(b"\0"):
            write_all(fd, page, offset + at)
