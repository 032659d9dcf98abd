"""The options of an overlay, as a manifest sets them and a plan records them."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from batchdiff.qcow2.geometry import CompressionType, Geometry

CLUSTER_SIZES = tuple(1 << bits for bits in range(9, 22))
"""512 B to 2 MiB, the range of QEMU's qcow2 driver (MIN_CLUSTER_BITS and MAX_CLUSTER_BITS)."""

DEFAULT_CLUSTER_SIZE = 65536
"""QEMU's default."""

AUTO = "auto"
"""A manifest's ``cluster_size: auto``; a plan always has a number."""


class Compression(enum.StrEnum):
    """The compression of data clusters."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


class BackingPath(enum.StrEnum):
    """The form in which an overlay's header names the template."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """The options of one overlay; ``cluster_size`` in bytes, None for ``auto``."""

    cluster_size: int | None = DEFAULT_CLUSTER_SIZE
    extended_l2: bool = False
    compression: Compression = Compression.NONE
    backing_path: BackingPath = BackingPath.ABSOLUTE
    lazy_refcounts: bool = False


def geometry_of(options: OverlayOptions, cluster_size: int) -> Geometry:
    """Return the geometry of an overlay with these options and this cluster size."""
    kind = CompressionType.ZSTD if options.compression is Compression.ZSTD else CompressionType.ZLIB
    return Geometry(cluster_size, options.extended_l2, kind)


def backing_name(overlay_path: str, template_path: str, how: BackingPath) -> str:
    """Return the template's path in the form that the overlay's header stores; both paths are absolute."""
    if how is BackingPath.ABSOLUTE:
        return template_path
    relative = os.path.relpath(template_path, os.path.dirname(overlay_path))
    # QEMU takes the text before a colon for a protocol, unless a slash comes first.
    return f"./{relative}" if ":" in relative.split("/", 1)[0] else relative
