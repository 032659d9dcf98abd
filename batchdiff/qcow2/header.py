"""The qcow2 header, parsed and checked.

::

    | fixed fields, 72 (v2) or header_length (v3) bytes | extensions | backing file name | ... end of cluster 0

Source: QEMU ``docs/interop/qcow2.txt``; limits from ``block/qcow2.h``.
"""

from __future__ import annotations

import itertools
import struct

from batchdiff.frozen import frozen
from batchdiff.qcow2.extensions import (
    AUTOCLEAR_RAW_DATA_FILE,
    backing_format,
    bitmaps_of,
    c_string,
    data_file_of,
    extensions_of,
    luks_header_in,
)
from batchdiff.qcow2.faults import (
    NEWER_QEMU,
    ONE_FILE,
    REPAIR_A_COPY,
    SHOULD_HAVE_CONTENT,
    SHUT_DOWN_OR_REPAIR,
    WRONG_FORMAT,
    FormatError,
    require,
    require_opened,
)
from batchdiff.qcow2.geometry import (
    MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES,
    SMALLEST_EXTENDED_L2,
    CompressionType,
    Geometry,
)
from batchdiff.units import SECTOR, ceil_div, format_size

MAGIC = b"QFI\xfb"
_NO_MAGIC = "it is not a qcow2 image: the magic number QFI\\xfb is not at its start"
_FROM_QCOW = "Convert it with `qemu-img convert -f qcow -O qcow2`, and use the result in the manifest."
FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
V3 = struct.Struct(">QQQIIB7x")
V2_LENGTH, V3_LENGTH, _V3_SHORTEST = 72, 112, 104
_MAX_SNAPSHOTS = 65536
_SHORTEST_SNAPSHOT = 40
MAX_NAME = 1023

_DIRTY, _CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
LAZY_REFCOUNTS = 1 << 0
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2


@frozen
class Header:
    """The fields of a header. Offsets and sizes are in bytes; entries, snapshots and bitmaps are counts."""

    version: int
    geometry: Geometry
    virtual_size: int
    l1_offset: int
    l1_entries: int
    refcount_offset: int
    refcount_bytes: int
    snapshots: int
    bitmaps: int
    backing_name: str | None
    backing_format: str | None
    lazy_refcounts: bool
    snapshots_offset: int = 0
    bitmap_directory: tuple[int, int] = (0, 0)  # offset and length
    luks_header: tuple[int, int] | None = None  # offset and length
    data_file: str | None = None

    def tables(self) -> list[tuple[int, int, str]]:
        """Return the offset, length and name of the header and of each part that it names, in order of offset.

        The snapshot table's length is a minimum: the header gives only the number of snapshots.
        """
        found = [
            (0, self.geometry.cluster_size, "header"),
            (self.l1_offset, self.l1_entries * 8, "L1 table"),
            (self.refcount_offset, self.refcount_bytes, "refcount table"),
        ]
        if self.snapshots:
            found.append((self.snapshots_offset, self.snapshots * _SHORTEST_SNAPSHOT, "snapshot table"))
        if self.bitmaps:
            found.append((*self.bitmap_directory, "bitmap directory"))
        if self.luks_header:
            found.append((*self.luks_header, "LUKS header"))
        return sorted(found)


def claimed_cluster_size(head: bytes) -> int:
    """Return the cluster size that a header gives; 0 if it is invalid or cut off. Nothing else is checked."""
    bits = int.from_bytes(head[20:24], "big") if len(head) >= 24 else 0
    return 1 << bits if 9 <= bits <= 21 else 0


def parse(head: bytes, file_size: int) -> Header:
    """Parse and check a header. ``head``: at least the file's first cluster, or all of a shorter file.

    :raises FormatError: the image cannot be used.
    """
    if head[:4] == MAGIC and len(head) < V2_LENGTH:
        raise FormatError(f"it is truncated: it has {len(head)} bytes, but a header takes at least {V2_LENGTH}")
    if head[:4] != MAGIC:
        raise FormatError(_NO_MAGIC, remedy=WRONG_FORMAT)
    fields = FIXED.unpack_from(head)
    _, version, name_offset, name_size, bits, size, crypt, l1_entries, l1_offset = fields[:9]
    refcount_offset, refcount_clusters, snapshots, snapshots_offset = fields[9:]
    # The order matters: version and features decide the meaning of what is checked after them.
    require(version != 1, "its version is 1, the older format qcow", remedy=_FROM_QCOW)
    require(version in {2, 3}, f"version {version} is unknown (2 and 3 are known)", remedy=NEWER_QEMU)
    require_opened(9 <= bits <= 21, f"a cluster size of 2^{bits} bytes is outside the range 512 B to 2 MiB")
    incompatible, compatible, autoclear, refcount_order, length, compression = version_3_fields(head, version)
    _check_features(incompatible)
    require_opened(refcount_order <= 6, f"a refcount width of 2^{refcount_order} bits exceeds 64")
    geometry = _geometry(version, bits, incompatible, compression, 1 << refcount_order)
    cluster = geometry.cluster_size
    _check_length(length, cluster, len(head))
    is_raw = autoclear & AUTOCLEAR_RAW_DATA_FILE
    require_opened(geometry.external_data or not is_raw, "it is marked as having a raw data file, but has none")
    name = backing_name_in(head[:cluster], name_offset, name_size, length)
    extensions = list(extensions_of(head[:cluster], length, name_offset))
    bitmaps, *directory = bitmaps_of(extensions, autoclear)
    header = Header(
        version=version,
        geometry=geometry,
        virtual_size=size - size % SECTOR,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        refcount_offset=refcount_offset,
        refcount_bytes=refcount_clusters * cluster,
        snapshots=snapshots,
        bitmaps=bitmaps,
        backing_name=name,
        backing_format=backing_format(extensions),
        lazy_refcounts=bool(compatible & LAZY_REFCOUNTS),
        snapshots_offset=snapshots_offset,
        bitmap_directory=(directory[0], directory[1]),
        luks_header=luks_header_in(extensions, crypt),
        data_file=data_file_of(extensions, has_one=geometry.external_data),
    )
    _check_data_file(header)
    _check_sizes(header, size)
    _check_tables(header, file_size)
    return header


def version_3_fields(head: bytes, version: int) -> tuple[int, int, int, int, int, int]:
    """Return the three sets of feature bits, the refcount order, the header length and the compression type.

    Version 2 gets the format's defaults.

    :raises FormatError: the header is too short.
    """
    if version == 2:
        return 0, 0, 0, 4, V2_LENGTH, 0
    require(len(head) >= V3_LENGTH, "it ends inside its header")
    incompatible, compatible, autoclear, refcount_order, length, compression = V3.unpack_from(head, V2_LENGTH)
    require_opened(length >= _V3_SHORTEST, f"the header length {length} is below {_V3_SHORTEST}")
    return incompatible, compatible, autoclear, refcount_order, length, compression if length > 104 else 0


def _check_length(length: int, cluster: int, available: int) -> None:
    require_opened(length <= cluster, f"the header length {length} exceeds the cluster size")
    require(length % 8 == 0, f"the header length {length} is not a multiple of 8")
    require(
        available >= cluster,
        f"its header (a cluster of {cluster} bytes) ends past the end of the file ({available} bytes),"
        " which is truncated or damaged",
    )


def _check_features(incompatible: int) -> None:
    unknown = incompatible & ~_KNOWN_INCOMPATIBLE
    require(not unknown, f"it needs unknown features (incompatible bits {unknown:#x})", remedy=NEWER_QEMU)
    require(
        not incompatible & _CORRUPT,
        "it is marked corrupt",
        remedy=REPAIR_A_COPY,
    )
    require(
        not incompatible & _DIRTY,
        "it is marked dirty: it is in use, or was not closed cleanly",
        remedy=SHUT_DOWN_OR_REPAIR,
    )


def _geometry(
    version: int, cluster_bits: int, incompatible: int, compression: int, refcount_bits: int
) -> Geometry:
    geometry = Geometry(
        cluster_size=1 << cluster_bits,
        extended_l2=bool(incompatible & EXTENDED_L2),
        compression_type=_compression_type(incompatible, compression),
        zero_flag=version >= 3,
        external_data=bool(incompatible & DATA_FILE),
        refcount_bits=refcount_bits,
    )
    require_opened(
        not geometry.extended_l2 or geometry.cluster_size >= SMALLEST_EXTENDED_L2,
        f"extended L2 needs clusters of {format_size(SMALLEST_EXTENDED_L2)} or more",
    )
    return geometry


def _compression_type(incompatible: int, value: int) -> CompressionType:
    require_opened(
        bool(incompatible & COMPRESSION_TYPE) == (value != 0),
        "its compression type and the feature bit for it contradict each other",
    )
    require(value in set(CompressionType), f"the compression type {value} is unknown", remedy=NEWER_QEMU)
    return CompressionType(value)


def backing_name_in(cluster: bytes, offset: int, size: int, length: int) -> str | None:
    """Return the backing file's name as QEMU reads it; None if it is missing or empty.

    ``length``: bytes of the header's fields.

    :raises FormatError: the name is too long or misplaced.
    """
    require_opened(offset <= len(cluster), "its backing file name is outside the header")
    if offset == 0 or size == 0:
        return None
    require_opened(size <= MAX_NAME, f"its backing file name has {size} bytes, more than the limit of {MAX_NAME}")
    require(
        offset >= length and offset + size <= len(cluster),
        "its backing file name overlaps the header's fields, or ends outside the header",
    )
    return c_string(cluster[offset : offset + size]).decode("utf-8", "surrogateescape") or None


def _check_data_file(header: Header) -> None:
    require(
        header.luks_header is None or not header.geometry.external_data,
        "it is encrypted and keeps its data in an external file; the two together are not supported",
        remedy=ONE_FILE,
    )


def _check_sizes(header: Header, size: int) -> None:
    """``size``: the virtual size as stored, not rounded down to whole sectors."""
    require(
        header.virtual_size > 0, f"its virtual size is less than a sector ({SECTOR} B)", remedy=SHOULD_HAVE_CONTENT
    )
    require(size < 1 << 63, f"its virtual size {size} is invalid")
    needed = ceil_div(size, header.geometry.l2_coverage)
    require_opened(
        header.l1_entries >= needed,
        f"its L1 table has too few entries: {header.l1_entries} instead of {needed}",
    )
    require_opened(header.l1_entries * 8 <= MAX_L1_BYTES, "its L1 table exceeds QEMU's limit of 32 MiB")
    require_opened(
        0 < header.refcount_bytes <= MAX_REFCOUNT_TABLE_BYTES,
        f"its refcount table of {header.refcount_bytes} bytes is outside the range 1 cluster to 8 MiB",
    )
    require_opened(
        header.snapshots <= _MAX_SNAPSHOTS,
        f"its {header.snapshots} snapshots exceed QEMU's limit of {_MAX_SNAPSHOTS}",
    )


def _check_tables(header: Header, file_size: int) -> None:
    cluster, tables = header.geometry.cluster_size, header.tables()
    require_opened(
        # QEMU checks this even if there are no snapshots.
        header.snapshots_offset % cluster == 0,
        f"its snapshot table at {header.snapshots_offset} is not aligned to a cluster",
    )
    # QEMU reads offsets as signed numbers.
    require_opened(header.snapshots_offset < 1 << 63, "the offset of its snapshot table is 2^63 or more")
    for offset, length, name in tables:
        require_opened(offset % cluster == 0, f"its {name} at {offset} is not aligned to a cluster")
        require(
            offset + length <= file_size,
            f"its {name} (bytes {offset} to {offset + length}) ends past the end of the file"
            f" ({file_size} bytes), which is truncated or damaged",
        )
    for (offset, length, name), (next_offset, _, next_name) in itertools.pairwise(tables):
        require(offset + length <= next_offset, f"its {name} and its {next_name} overlap")
