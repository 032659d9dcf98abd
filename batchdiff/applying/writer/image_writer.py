"""Write a qcow2 image: an overlay on a template, or a standalone image.

The file is laid out ahead of time (:mod:`batchdiff.qcow2.layout`): tables and data go straight to their
places, and the header comes last, so that an unfinished file is not a qcow2 image at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from batchdiff.applying.writer.data_copy import CompressedStore, Copier, DataStore, PlainStore
from batchdiff.extents import Extents
from batchdiff.files.read_write import write_all
from batchdiff.image.image import Image
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.layout import Layout, header_for, layout_for, plan_layout
from batchdiff.qcow2.tables import l1_table, refcount_table, refcounts, table_batches


@dataclass(frozen=True, slots=True)
class NewImage:
    """The image to write. ``extents`` in granules; ``backing``: name and format of the backing file, or None.

    ``compression_level``: None for the default of the compression.
    """

    virtual_size: int
    geometry: Geometry
    extents: Extents
    backing: tuple[str, str] | None
    compress: bool = False
    lazy_refcounts: bool = False
    compression_level: int | None = None


def _never() -> None:
    """Never end a write early."""


def write_image(fd: int, guest: Image, new: NewImage, *, check: Callable[[], None] = _never) -> int:
    """Write the image into an empty file, with data from ``guest``; return the size of the file in bytes.

    The caller makes it durable. ``check`` is called every few MiB, and may raise an error to end it.

    :raises OSError: the disk is full or has a fault.
    :raises ImageError: the guest cannot be read.
    :raises FormatError: the header does not fit.
    """
    layout = layout_for(new.extents, new.virtual_size, new.geometry)
    # Check this first: if the header does not fit, no data should be copied.
    header_for(layout, new.virtual_size, backing=new.backing)
    if not new.compress:
        # XFS allocates space past the end of a growing file in advance, and keeps it where there should be holes.
        os.ftruncate(fd, layout.file_size)
    store = _store(Copier(fd, guest, check), layout, new)
    for batch in table_batches(new.extents, new.geometry):
        hosts = store.store(batch.extents, batch.data_clusters())
        write_all(fd, batch.encoded(hosts), layout.l2_offset + batch.position * new.geometry.cluster_size)
    final = _final(layout, store, new)
    _write_metadata(fd, final, store, new)
    return final.file_size


def _store(copier: Copier, layout: Layout, new: NewImage) -> DataStore:
    if new.compress:
        return CompressedStore(copier, new.geometry, layout.data_offset, level=new.compression_level)
    return PlainStore(copier, new.geometry, layout.data_offset)


def _final(layout: Layout, store: DataStore, new: NewImage) -> Layout:
    stored = (store.end - layout.data_offset) // new.geometry.cluster_size
    return plan_layout(new.virtual_size, new.geometry, l2_tables=layout.l2_tables, data_clusters=stored)


def _write_metadata(fd: int, layout: Layout, store: DataStore, new: NewImage) -> None:
    os.ftruncate(fd, layout.file_size)
    for offset, counts in refcounts(layout, store.refcounts()):
        write_all(fd, counts, offset)
    write_all(fd, refcount_table(layout), layout.refcount_table_offset)
    write_all(fd, l1_table(new.extents, layout), layout.l1_offset)
    header = header_for(layout, new.virtual_size, backing=new.backing, lazy_refcounts=new.lazy_refcounts)
    write_all(fd, header, 0)
