"""Overlays written by batchdiff's own writer, for guests compared in the naive way."""

from __future__ import annotations

import os
from pathlib import Path

import naive
from oracle import source

from batchdiff.applying.writer.image_writer import NewImage, write_image
from batchdiff.image.open import open_image
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.plan.overlay_options import geometry_of as geometry_for
from batchdiff.planning.sizes.overlay_sizes import extents_to_write
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import align_up

UNIT = 4096


def geometry_of(options: OverlayOptions) -> Geometry:
    return geometry_for(options, options.cluster_size)


def new_image(template: bytes, guest: bytes, options: OverlayOptions, name: str | None) -> NewImage:
    """What apply would write for a guest, found by the naive comparison."""
    virtual_size, geometry = align_up(len(guest), 512), geometry_of(options)
    extents = extents_to_write(naive.differences(template, guest), virtual_size, options, geometry)
    backing = None if name is None else (name, "raw")
    compress = options.compression is not Compression.NONE
    return NewImage(
        virtual_size,
        geometry,
        extents,
        backing,
        compress,
        lazy_refcounts=options.lazy_refcounts,
        compression_level=options.compression_level,
    )


def write(overlay: Path, guest: Path, new: NewImage) -> int:
    fd = os.open(overlay, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with open_image(source(guest)) as image:
            size = write_image(fd, image, new)
        os.fsync(fd)
    finally:
        os.close(fd)
    return size


def write_sparse(path: Path, content: bytes) -> Path:
    with path.open("wb") as file:
        for at in range(0, len(content), UNIT):
            if any(content[at : at + UNIT]):
                file.seek(at)
                file.write(content[at : at + UNIT])
        file.truncate(len(content))
    return path
