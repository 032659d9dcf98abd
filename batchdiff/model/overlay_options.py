"""How an overlay is written: the options that a manifest gives and a plan records."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from batchdiff.qcow2.geometry import CompressionType, Geometry

CLUSTER_SIZES = tuple(1 << bits for bits in range(9, 22))
"""512 B to 2 MiB: what QEMU's qcow2 driver accepts (MIN_CLUSTER_BITS and MAX_CLUSTER_BITS)."""

DEFAULT_CLUSTER_SIZE = 65536
"""QEMU's default."""

AUTO = "auto"
"""A manifest's ``cluster_size: auto``; a plan always has a number."""


class Compression(enum.StrEnum):
    """How data clusters are stored."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


class BackingPath(enum.StrEnum):
    """How the overlay's header names the template."""

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
    """The geometry of an overlay with those options and that cluster size."""
    kind = CompressionType.ZSTD if options.compression is Compression.ZSTD else CompressionType.ZLIB
    return Geometry(cluster_size, options.extended_l2, kind)


def backing_name(overlay_path: str, template_path: str, how: BackingPath) -> str:
    """How the header of an overlay names its template; both paths absolute."""
    if how is BackingPath.ABSOLUTE:
        return template_path
    relative = os.path.relpath(template_path, os.path.dirname(overlay_path))
    # QEMU takes what stands before a colon for a protocol, unless a slash comes first.
    return f"./{relative}" if ":" in relative.split("/", 1)[0] else relative
