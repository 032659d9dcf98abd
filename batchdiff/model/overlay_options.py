"""How an overlay is written: the options that a manifest gives and a plan records."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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
