"""The price of a probe: the bytes on disk that its data takes in an overlay, or that can be shared in place.

::

    units of the probe            | same | data | zero | same | data |  hole  |
    granules of the overlay       |    DATA     |    DATA     |    DATA       |
    WRITTEN                       what the filesystem stores of these granules: not the guest's holes
    WHOLE                         all of these granules
    COMPRESSED                    their compressed size
    EQUAL, without an overlay     what equals the template's data and can still be shared in place
"""

from __future__ import annotations

import enum
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Kind
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.storage.allocation_units import volume_of
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.overlay_options import Compat, Compression, OverlayFormat, OverlayOptions
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.geometry import CompressionType, Geometry
from batchdiff.units import KIB

KindsOfProbes = npt.NDArray[np.uint8]
"""The :class:`Kind` of each unit of 4 KiB, of shape (probes, units)."""

_LEAST_PROBE = 64 * KIB
"""The smallest probe: 4 KiB would take a disk nearly as long to read, and show less."""

_PROBE_OF_ANY_GEOMETRY = 256 * KIB
"""The smallest probe before the cluster size is chosen."""

_MOST_PROBES = 1 << 21
"""The number of probes above which larger ones are used, if possible, to save memory."""


_QED_ENTRY = 8
"""Bytes of a table entry (QEMU, ``docs/interop/qed_spec.txt``)."""


class PriceRule(enum.Enum):
    """The rule for the price of a probe."""

    WRITTEN = "the stored granules without the guest's holes, in whole units of the filesystem"
    WHOLE = "all granules that the overlay stores"
    COMPRESSED = "the compressed size of the granules that the overlay stores"
    EQUAL = "the data that equals the template's and can be shared in place"


class OverlayPlace(NamedTuple):
    """The filesystem of an overlay: its allocation unit in bytes, and whether the guest is on it."""

    unit: int
    is_same: bool


@frozen
class Pricing:
    """The pricing of one guest's probes.

    ``geometry``: the overlay's; None until it is chosen, or if there is no overlay. ``unit``: the allocation unit
    of the overlay's filesystem, in bytes. ``shares``: the overlay will share the blocks that the guest already
    shares. ``level``: of compression; None for the default. ``stores_zeros``: what the guest has cleared takes
    space, because version 2 of qcow2 has no zero clusters, and the overlay has no holes.
    """

    rule: PriceRule
    geometry: Geometry | None
    unit: int
    shares: bool = False
    level: int | None = None
    stores_zeros: bool = False

    @property
    def resolution(self) -> int:
        """The bytes of each part that is priced as a whole, at least 4 KiB."""
        if self.geometry is None:
            return UNIT
        return max(self.geometry.cluster_size if self.compresses else self.geometry.granule, UNIT)

    @property
    def compression(self) -> CompressionType:
        """The compression type, if clusters are compressed."""
        return CompressionType.ZLIB if self.geometry is None else self.geometry.compression_type

    @property
    def compresses(self) -> bool:
        """True if the prices are compressed sizes."""
        return self.rule is PriceRule.COMPRESSED


def overlay_place(entry: GuestEntry, image: Image) -> OverlayPlace:
    """Return the place of a guest's overlay. ``image``: the guest.

    If the place cannot be examined, return an assumption: the guest's assessment will report the error.
    """
    folder, fd = os.path.dirname(entry.overlay_path), image.layers[0].fd
    try:
        return OverlayPlace(volume_of(folder, fd).unit, os.stat(folder).st_dev == os.fstat(fd).st_dev)
    except OSError:
        return OverlayPlace(UNIT, is_same=False)


def table_coverage(options: OverlayOptions, geometry: Geometry, unit: int) -> tuple[int, int]:
    """Return the bytes that an L2 table maps, and those that it takes.

    The tables of a QED overlay consist mostly of holes, so each allocation unit of a table counts separately.
    """
    if options.format is OverlayFormat.QED:
        return unit // _QED_ENTRY * geometry.cluster_size, unit
    return geometry.l2_coverage, geometry.cluster_size


def is_to_be_chosen(entry: GuestEntry) -> bool:
    """Return True if an overlay's cluster size or kind of L2 entries is ``auto``."""
    return entry.gets_overlay and (entry.options.cluster_size is None or entry.options.extended_l2 is None)


def pricing_of(entry: GuestEntry, geometry: Geometry | None, place: OverlayPlace) -> Pricing:
    """Return the pricing of a guest."""
    options = entry.options
    if not entry.gets_overlay:
        return Pricing(PriceRule.EQUAL, None, place.unit)
    is_packed = options.compression is not Compression.NONE
    zeros = options.compat is Compat.V2 and (is_packed or options.encryption is not None)
    if geometry is None:
        return Pricing(PriceRule.WHOLE, None, place.unit, stores_zeros=zeros)
    if is_packed:
        level = options.compression_level
        return Pricing(PriceRule.COMPRESSED, geometry, place.unit, level=level, stores_zeros=zeros)
    reserves = options.preallocation.reserves_blocks
    if reserves or options.encryption is not None or geometry.cluster_size < place.unit:
        return Pricing(PriceRule.WHOLE, geometry, place.unit, stores_zeros=zeros)
    shares = place.is_same and geometry.granule % place.unit == 0
    return Pricing(PriceRule.WRITTEN, geometry, place.unit, shares=shares)


def probe_size(options: OverlayOptions, unit: int, virtual_size: int, most: int) -> int:
    """Return the size of a probe in bytes. ``most``: its upper limit; both are powers of two."""
    least = _PROBE_OF_ANY_GEOMETRY if options.cluster_size is None else max(_LEAST_PROBE, options.cluster_size)
    size = 1 << (max(least, unit, virtual_size // _MOST_PROBES) - 1).bit_length()
    return min(size, most)


def folded(kinds: KindsOfProbes, resolution: int) -> KindsOfProbes:
    """Return the kinds of parts of ``resolution`` bytes: the ORed kinds of their units."""
    factor = resolution // UNIT
    if factor == 1:
        return kinds
    found: KindsOfProbes = np.bitwise_or.reduce(kinds.reshape(len(kinds), -1, factor), axis=2)
    return found


def data_parts(kinds: KindsOfProbes, resolution: int, geometry: Geometry | None) -> npt.NDArray[np.bool_]:
    """Flag the parts of ``resolution`` bytes that an overlay stores as data."""
    parts = folded(kinds, resolution)
    found: npt.NDArray[np.bool_] = parts == Kind.DATA
    if geometry is not None and not geometry.zero_flag:  # version 2 has no zero clusters
        found = parts & Kind.ZERO != 0
    return found
