"""The options of an overlay, as a manifest sets them and a plan records them."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass

from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS, SMALLEST_EXTENDED_L2, CompressionType, Geometry
from batchdiff.units import format_size

CLUSTER_SIZES = tuple(1 << bits for bits in range(9, 22))
"""512 B to 2 MiB, the range of QEMU's qcow2 driver (MIN_CLUSTER_BITS and MAX_CLUSTER_BITS)."""

DEFAULT_CLUSTER_SIZE = 65536
"""QEMU's default."""

AUTO = "auto"
"""A manifest's ``cluster_size`` or ``extended_l2``; in a plan, only that of a guest that was not compared."""


class Compression(enum.StrEnum):
    """The compression of data clusters."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


COMPRESSION_LEVELS = {Compression.ZLIB: range(1, 10), Compression.ZSTD: range(1, 23)}
"""The levels of the libraries, from fast to small; without one, QEMU's are used: 6 and 3."""


class Compat(enum.StrEnum):
    """The version of the qcow2 format, in the words of ``qemu-img create``."""

    V2 = "0.10"
    V3 = "1.1"


class BackingPath(enum.StrEnum):
    """The form in which an overlay's header names the template."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """The options of one overlay.

    ``cluster_size`` in bytes; None for ``auto``, as with ``extended_l2``. ``compression_level``: None for the
    default of the compression.
    """

    cluster_size: int | None = DEFAULT_CLUSTER_SIZE
    extended_l2: bool | None = False
    compression: Compression = Compression.NONE
    backing_path: BackingPath = BackingPath.ABSOLUTE
    lazy_refcounts: bool = False
    compression_level: int | None = None
    refcount_bits: int = DEFAULT_REFCOUNT_BITS
    compat: Compat = Compat.V3


def geometry_of(options: OverlayOptions, cluster_size: int) -> Geometry:
    """Return the geometry of an overlay with these options, none of them ``auto``, and this cluster size."""
    kind = CompressionType.ZSTD if options.compression is Compression.ZSTD else CompressionType.ZLIB
    return Geometry(
        cluster_size,
        bool(options.extended_l2),
        kind,
        zero_flag=options.compat is Compat.V3,
        refcount_bits=options.refcount_bits,
    )


def contradictions(options: OverlayOptions) -> Iterator[tuple[str, str]]:
    """Yield options that no overlay can have together: the key of one, and what it needs."""
    size, compression, level = options.cluster_size, options.compression, options.compression_level
    if options.extended_l2 and size is not None and size < SMALLEST_EXTENDED_L2:
        least = format_size(SMALLEST_EXTENDED_L2)
        yield "extended_l2", f"needs a cluster_size of {least} or more, not {format_size(size)}"
    if level is not None and compression is Compression.NONE:
        yield "compression_level", "needs `compression: zlib` or `compression: zstd`"
    elif level is not None and level not in (levels := COMPRESSION_LEVELS[compression]):
        yield "compression_level", f"{level} is not a level of {compression}; use {levels[0]} to {levels[-1]}"
    if options.compat is Compat.V2:
        for key, impossible, instead in (
            ("extended_l2", options.extended_l2, "`extended_l2: false`"),
            ("compression", compression is Compression.ZSTD, "`compression: zlib`"),
            ("lazy_refcounts", options.lazy_refcounts, "`lazy_refcounts: false`"),
            ("refcount_bits", options.refcount_bits != DEFAULT_REFCOUNT_BITS, "`refcount_bits: 16`"),
        ):
            if impossible:
                yield key, f'is impossible with `compat: "{Compat.V2}"`; use {instead}, or `compat: "{Compat.V3}"`'


def backing_name(overlay_path: str, template_path: str, how: BackingPath) -> str:
    """Return the template's path in the form that the overlay's header stores; both paths are absolute."""
    if how is BackingPath.ABSOLUTE:
        return template_path
    relative = os.path.relpath(template_path, os.path.dirname(overlay_path))
    # QEMU takes the text before a colon for a protocol, unless a slash comes first.
    return f"./{relative}" if ":" in relative.split("/", 1)[0] else relative
