"""Entries of a qcow2 file's tables: conversions and checks.

::

    standard cluster    | 63 copied | 62 = 0 | 61-56 reserved | 55-9 host offset | 8-1 reserved | 0 zero |
    compressed cluster  | 63 = 0    | 62 = 1 | 61-x sectors - 1 | x-1..0 host offset |
                        where x = 62 - (cluster_bits - 8)
    extended L2         a second word: bits 0-31 allocated, bits 32-63 zero, one for each subcluster

Source: QEMU ``docs/interop/qcow2.txt``, "L2 table entry".
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import SUBCLUSTERS, Geometry

Words = npt.NDArray[np.uint64]

COPIED = np.uint64(1 << 63)
COMPRESSED = np.uint64(1 << 62)
ZERO_FLAG = np.uint64(1)
OFFSET_MASK = np.uint64(0x00FFFFFFFFFFFE00)
_RESERVED_STANDARD = np.uint64(0x3F000000000001FE)
_RESERVED_L1 = np.uint64(0x7F000000000001FF)
_ALL_SUBCLUSTERS_ALLOCATED = np.uint64(0xFFFFFFFF)
_DESCRIPTOR_MASK = np.uint64((1 << 62) - 1)
_RESERVED_REFCOUNT_TABLE = np.uint64(0x1FF)


class Origin(enum.IntEnum):
    """The origin of the bytes in a part of an image."""

    ABSENT = 0
    """Not in this image: the backing file's bytes show through, or zeros if there is none."""
    ZERO = 1
    FILE = 2
    """In a file of the image, uncompressed."""
    COMPRESSED = 3
    EXPORTED = 4
    """In a form that only QEMU reads."""


def granules(words: Words, geometry: Geometry) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the origin and address of each granule.

    ``words``: L2 entries as native integers, shape (clusters,), or (clusters, 2) with extended L2. An
    address is an offset in the file or data file (FILE), a compressed cluster's descriptor (COMPRESSED), or 0.
    """
    entry = words[:, 0] if geometry.extended_l2 else words
    packed = (entry & COMPRESSED) != 0
    host = (entry & OFFSET_MASK).astype(np.int64)
    if geometry.extended_l2:
        origin, address = _subclusters(host, words[:, 1], geometry)
        packed = np.repeat(packed, SUBCLUSTERS)
        entry = np.repeat(entry, SUBCLUSTERS)
    else:
        origin = np.where(_is_stored(entry, geometry), np.uint8(Origin.FILE), np.uint8(Origin.ABSENT))
        if geometry.zero_flag:
            origin[(entry & ZERO_FLAG) != 0] = Origin.ZERO
        address = np.where(origin == Origin.FILE, host, 0)
    if packed.any():
        origin[packed] = Origin.COMPRESSED
        address[packed] = (entry[packed] & _DESCRIPTOR_MASK).astype(np.int64)
    return origin, address


def clusters_with_data(words: Words, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Return a mask of the clusters with data in the file or its data file.

    ``words``: as for :func:`granules`.
    """
    entry = words[:, 0] if geometry.extended_l2 else words
    packed: npt.NDArray[np.bool_] = (entry & COMPRESSED) != 0
    stored = _is_stored(entry, geometry)
    if geometry.extended_l2:
        stored &= (words[:, 1] & _ALL_SUBCLUSTERS_ALLOCATED) != 0
    elif geometry.zero_flag:
        stored &= (entry & ZERO_FLAG) == 0
    packed |= stored
    return packed


def _is_stored(entry: Words, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Return which entries, read as standard, map to a file. In a data file, a cluster's offset can be 0."""
    stored: npt.NDArray[np.bool_] = (
        entry & (OFFSET_MASK | COPIED if geometry.external_data else OFFSET_MASK)
    ) != 0
    return stored


def _subclusters(
    host: npt.NDArray[np.int64], bitmap: Words, geometry: Geometry
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    bits = (bitmap[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    allocated, zero = bits[:, :SUBCLUSTERS] != 0, bits[:, SUBCLUSTERS:] != 0
    origin = np.full(allocated.shape, Origin.ABSENT, dtype=np.uint8)
    origin[zero] = Origin.ZERO
    origin[allocated] = Origin.FILE
    within = np.arange(SUBCLUSTERS, dtype=np.int64) * geometry.granule
    address = np.where(allocated, host[:, None] + within, 0)
    return origin.reshape(-1), address.reshape(-1)


def compressed_extent(descriptor: int, geometry: Geometry) -> tuple[int, int]:
    """Return a compressed cluster's file offset and maximum length."""
    offset_bits = 62 - (geometry.cluster_bits - 8)
    offset = descriptor & ((1 << offset_bits) - 1)
    return offset, ((descriptor >> offset_bits) + 1) * 512 - offset % 512


def compressed_entry(offset: int, length: int, geometry: Geometry) -> int:
    """Return the L2 entry of a compressed cluster."""
    more_sectors = (offset % 512 + length - 1) // 512
    return 1 << 62 | more_sectors << (62 - (geometry.cluster_bits - 8)) | offset


def check_l1(entries: Words, geometry: Geometry, file_size: int) -> npt.NDArray[np.int64]:
    """Return the offsets of the L2 tables that an L1 table names, in its order; skip empty entries.

    :raises FormatError: an entry is invalid, or a table is named twice.
    """
    used = entries[entries != 0]
    if (used & _RESERVED_L1).any():
        raise FormatError("an L1 entry has reserved bits set")
    tables: npt.NDArray[np.int64] = (used & OFFSET_MASK).astype(np.int64)
    if (tables == 0).any():
        raise FormatError("an L2 table overlaps the header")
    _check_hosts(tables, geometry.cluster_size, file_size, "an L2 table")
    if _has_twice(tables):
        raise FormatError("one L2 table is used for two parts of the disk")
    return tables


def _has_twice(offsets: npt.NDArray[Any]) -> bool:
    # Not numpy.unique: importing what it needs takes longer than opening an image.
    ordered = np.sort(offsets)
    return bool((ordered[1:] == ordered[:-1]).any())


def check_refcount_table(entries: Words, geometry: Geometry, file_size: int) -> npt.NDArray[np.int64]:
    """Return the offsets of the refcount blocks that a table names, in its order; skip empty entries.

    :raises FormatError: an entry is invalid, or a block is named twice.
    """
    used = entries[entries != 0]
    if (used & _RESERVED_REFCOUNT_TABLE).any():
        raise FormatError("a refcount table entry has reserved bits set")
    _check_hosts(used, geometry.cluster_size, file_size, "a refcount block")
    if _has_twice(used):
        raise FormatError("one refcount block is used for two parts of the file")
    blocks: npt.NDArray[np.int64] = used.astype(np.int64)
    return blocks


def check_l2(words: Words, geometry: Geometry, file_size: int) -> int:
    """Check L2 entries; return the number of bytes of the file that they map.

    A compressed cluster counts as the fewest bytes that its entry allows.

    :raises FormatError: an entry is invalid.
    """
    entry = words[:, 0] if geometry.extended_l2 else words
    packed = (entry & COMPRESSED) != 0
    standard = entry[~packed]
    _check_reserved(standard, geometry)
    host = (standard & OFFSET_MASK).astype(np.int64)
    host = host[host != 0]
    _check_hosts(host, geometry.cluster_size, file_size, "a data cluster")
    if geometry.extended_l2:
        _check_bitmaps(entry, words[:, 1], geometry)
    # Compressed clusters need no alignment, but must start in the file and outside its header.
    offset_bits = np.uint64(62 - (geometry.cluster_bits - 8))
    offsets = (entry[packed] & ((np.uint64(1) << offset_bits) - np.uint64(1))).astype(np.int64)
    if ((offsets < geometry.cluster_size) | (offsets >= file_size)).any():
        raise FormatError("a compressed cluster lies in the header or outside the file")
    more_sectors = (entry[packed] & _DESCRIPTOR_MASK) >> offset_bits
    # An entry counts sectors: the compressed data may end with the first byte of the last sector.
    least = more_sectors.astype(np.int64) * 512 - offsets % 512 + 1
    return len(host) * geometry.cluster_size + int(np.maximum(least, 1).sum())


def check_external(
    words: Words, geometry: Geometry, places: npt.NDArray[np.int64], *, virtual_size: int, data_size: int
) -> None:
    """Check L2 entries of an image with a data file; ``places``: the offset on the disk of each entry's cluster.

    Source: QEMU ``block/qcow2-cluster.c``, ``qcow2_get_host_offset()``.

    :raises FormatError: an entry is invalid, or the data file is too short.
    """
    entry = words[:, 0] if geometry.extended_l2 else words
    if (entry & COMPRESSED).any():
        raise FormatError("a cluster is compressed, but the image has an external data file")
    _check_reserved(entry, geometry)
    if geometry.extended_l2:
        _check_bitmaps(entry, words[:, 1], geometry)
    host = (entry & OFFSET_MASK).astype(np.int64)
    stored = np.flatnonzero(_is_stored(entry, geometry))
    if (host[stored] != places[stored]).any():
        raise FormatError("a data cluster has different offsets in the data file and on the disk")
    used = places[clusters_with_data(words, geometry)]
    end = min(int(used.max()) + geometry.cluster_size, virtual_size) if len(used) else 0
    if end > data_size:
        raise FormatError(f"its data file is truncated: the tables need {end} bytes, but it has only {data_size}")


def _check_reserved(standard: Words, geometry: Geometry) -> None:
    """Bit 0 is reserved in version 2 and with extended L2."""
    reserved = _RESERVED_STANDARD
    if geometry.extended_l2 or not geometry.zero_flag:
        reserved |= ZERO_FLAG
    if (standard & reserved).any():
        raise FormatError("an L2 entry has reserved bits set")


def _check_hosts(offsets: npt.NDArray[np.int64] | Words, cluster_size: int, file_size: int, what: str) -> None:
    if (offsets % cluster_size != 0).any():
        raise FormatError(f"{what} is not aligned to the cluster size")
    if (offsets >= file_size).any():
        beyond = int(offsets[offsets >= file_size][0])
        raise FormatError(
            f"{what} at {beyond} lies past the end of the file ({file_size} bytes), which is truncated or damaged"
        )


def _check_bitmaps(entry: Words, bitmap: Words, geometry: Geometry) -> None:
    # QEMU ignores the bitmap of a compressed cluster.
    bitmap = np.where((entry & COMPRESSED) != 0, np.uint64(0), bitmap)
    allocated = bitmap & _ALL_SUBCLUSTERS_ALLOCATED
    if (allocated & (bitmap >> np.uint64(32))).any():
        raise FormatError("a subcluster is marked both allocated and zero")
    if (allocated[~_is_stored(entry, geometry)] != 0).any():
        raise FormatError("a subcluster is marked allocated in a cluster that is not allocated")
