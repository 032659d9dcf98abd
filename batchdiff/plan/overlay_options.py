"""The options of an overlay, as a manifest sets them and a plan records them."""

from __future__ import annotations

import enum
import os
from typing import NamedTuple

from batchdiff.foreign.luks_size import luks_header_bytes
from batchdiff.frozen import frozen
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS, CompressionType, Geometry
from batchdiff.qcow2.layout_options import LayoutOptions

CLUSTER_SIZES = tuple(1 << bits for bits in range(9, 22))
"""512 B to 2 MiB, the range of QEMU's qcow2 driver (MIN_CLUSTER_BITS and MAX_CLUSTER_BITS)."""

DEFAULT_CLUSTER_SIZE = 65536
"""In bytes; QEMU's default."""

QED_CLUSTER_SIZES = tuple(1 << bits for bits in range(12, 23))
"""4 KiB to 4 MiB. QEMU's qed driver allows up to 64 MiB, but above 4 MiB its limit on the disk's size overflows
with every size in QED_TABLE_SIZES."""

QED_TABLE_SIZES = (2, 4, 8, 16)
"""Clusters in a table of a QED file; QEMU can create, but not open, a file with tables of one cluster."""

DEFAULT_TABLE_SIZE = 4
"""In clusters; QEMU's default."""

AUTO = "auto"
"""A value of ``cluster_size`` and ``extended_l2``."""


class Compression(enum.StrEnum):
    """The compression of data clusters."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


COMPRESSION_LEVELS = {Compression.ZLIB: range(1, 10), Compression.ZSTD: range(1, 23)}
"""Levels, the fastest first. Without one, QEMU's defaults apply: 6 for zlib and 3 for zstd."""


class Compat(enum.StrEnum):
    """The version of the qcow2 format, as ``qemu-img create`` names it."""

    V2 = "0.10"
    V3 = "1.1"


class BackingPath(enum.StrEnum):
    """The form in which an overlay's header names the template."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"


class OverlayFormat(enum.StrEnum):
    """The format of an overlay."""

    QCOW2 = "qcow2"
    QED = "qed"


class Preallocation(enum.StrEnum):
    """The preallocation of an overlay, as ``qemu-img create`` names it."""

    OFF = "off"
    METADATA = "metadata"
    FALLOC = "falloc"
    FULL = "full"

    @property
    def reserves_blocks(self) -> bool:
        """True if the filesystem reserves blocks for all of the overlay's data, written or not."""
        return self in {Preallocation.FALLOC, Preallocation.FULL}


class Encryption(NamedTuple):
    """The LUKS encryption of an overlay, with the names and defaults of ``qemu-img create``.

    ``secret_file``: a path, absolute in a plan. ``iter_time``: in milliseconds.
    """

    secret_file: str
    cipher_alg: str = "aes-256"
    cipher_mode: str = "xts"
    ivgen_alg: str = "plain64"
    ivgen_hash_alg: str = "sha256"
    hash_alg: str = "sha256"
    iter_time: int = 2000


def luks_options(chosen: Encryption) -> dict[str, str | int]:
    """Return the ``encrypt.*`` options of ``qemu-img create``, except format and secret; names lack the prefix."""
    found: dict[str, str | int] = {
        name.replace("_", "-"): value for name, value in chosen._asdict().items() if name != "secret_file"
    }
    if chosen.ivgen_alg != "essiv":
        del found["ivgen-hash-alg"]
    return found


@frozen
class OverlayOptions:
    """The options of one overlay.

    ``cluster_size`` (in bytes) and ``extended_l2``: None for ``auto``. ``table_size``: the clusters in a table of
    a QED file. ``data_file``: the path of the external data file, absolute in a plan.
    """

    cluster_size: int | None = DEFAULT_CLUSTER_SIZE
    extended_l2: bool | None = False
    compression: Compression = Compression.NONE
    backing_path: BackingPath = BackingPath.ABSOLUTE
    lazy_refcounts: bool = False
    compression_level: int | None = None
    refcount_bits: int = DEFAULT_REFCOUNT_BITS
    compat: Compat = Compat.V3
    format: OverlayFormat = OverlayFormat.QCOW2
    table_size: int = DEFAULT_TABLE_SIZE
    preallocation: Preallocation = Preallocation.OFF
    encryption: Encryption | None = None
    data_file: str | None = None


def geometry_of(options: OverlayOptions, cluster_size: int) -> Geometry:
    """Return the geometry of an overlay; an ``extended_l2`` of None counts as False."""
    kind = CompressionType.ZSTD if options.compression is Compression.ZSTD else CompressionType.ZLIB
    return Geometry(
        cluster_size,
        bool(options.extended_l2),
        kind,
        zero_flag=options.compat is Compat.V3,
        refcount_bits=options.refcount_bits,
    )


def layout_options_of(options: OverlayOptions) -> LayoutOptions:
    """Return the options on which the layout of a qcow2 overlay depends."""
    secret = options.encryption
    return LayoutOptions(
        luks_bytes=0 if secret is None else luks_header_bytes(secret.cipher_alg, secret.cipher_mode),
        preallocated=options.preallocation is not Preallocation.OFF,
        outside=options.data_file is not None,
    )


def backing_name(overlay_path: str, template_path: str, how: BackingPath) -> str:
    """Return the template's path in the form that the overlay's header stores.

    ``overlay_path`` and ``template_path``: absolute.
    """
    if how is BackingPath.ABSOLUTE:
        return template_path
    relative = os.path.relpath(template_path, os.path.dirname(overlay_path))
    # QEMU takes the text before a colon for a protocol, unless a slash comes first.
    return f"./{relative}" if ":" in relative.split("/", 1)[0] else relative
