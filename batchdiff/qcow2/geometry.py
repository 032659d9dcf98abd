"""The sizes that determine the tables of a qcow2 image, and limits on both."""

from __future__ import annotations

import enum

from batchdiff.frozen import frozen
from batchdiff.units import KIB, MIB

SUBCLUSTERS = 32
"""Per cluster with extended L2 (qcow2.txt, "Extended L2 Entries")."""

SMALLEST_EXTENDED_L2 = 16 * KIB
"""QEMU refuses subclusters smaller than a sector."""

REFCOUNT_BITS = (1, 2, 4, 8, 16, 32, 64)
"""In version 3; version 2 always has 16."""

DEFAULT_REFCOUNT_BITS = 16

MAX_L1_BYTES = 32 * MIB
"""QCOW_MAX_L1_SIZE in QEMU's block/qcow2.h."""

MAX_REFCOUNT_TABLE_BYTES = 8 * MIB
"""QCOW_MAX_REFTABLE_SIZE in QEMU's block/qcow2.h."""


class CompressionType(enum.IntEnum):
    """The header's compression type."""

    ZLIB = 0
    ZSTD = 1


@frozen
class Geometry:
    """The properties that determine the format of tables and compressed clusters.

    ``zero_flag`` is False for version 2, which has no zero clusters. ``external_data``: the data clusters are in
    another file, each at its offset on the disk.
    """

    cluster_size: int
    extended_l2: bool = False
    compression_type: CompressionType = CompressionType.ZLIB
    zero_flag: bool = True
    refcount_bits: int = DEFAULT_REFCOUNT_BITS
    external_data: bool = False

    @property
    def cluster_bits(self) -> int:
        """The base-2 logarithm of the cluster size."""
        return self.cluster_size.bit_length() - 1

    @property
    def granule(self) -> int:
        """Bytes of the smallest part that can be allocated separately."""
        return self.cluster_size // SUBCLUSTERS if self.extended_l2 else self.cluster_size

    @property
    def granules(self) -> int:
        """Granules in a cluster."""
        return SUBCLUSTERS if self.extended_l2 else 1

    @property
    def entry_size(self) -> int:
        """Bytes of one L2 entry."""
        return 16 if self.extended_l2 else 8

    @property
    def l2_entries(self) -> int:
        """Entries in an L2 table, which fills one cluster."""
        return self.cluster_size // self.entry_size

    @property
    def refcounts_in_block(self) -> int:
        """Refcounts in a block, which fills one cluster."""
        return self.cluster_size * 8 // self.refcount_bits

    @property
    def most_uses(self) -> int:
        """The highest possible refcount."""
        return (1 << self.refcount_bits) - 1

    @property
    def l2_coverage(self) -> int:
        """Guest bytes that one L2 table maps."""
        return self.l2_entries * self.cluster_size
