"""The header of a new qcow2 file, as bytes."""

from __future__ import annotations

from batchdiff.qcow2.extensions import (
    BACKING_FORMAT,
    LUKS,
    end_of_extensions,
    packed_data_file,
    packed_encryption,
    packed_extension,
)
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import MAX_REFCOUNT_TABLE_BYTES
from batchdiff.qcow2.header import (
    COMPRESSION_TYPE,
    DATA_FILE,
    EXTENDED_L2,
    FIXED,
    LAZY_REFCOUNTS,
    MAGIC,
    MAX_NAME,
    V2_LENGTH,
    V3,
    V3_LENGTH,
    Header,
)
from batchdiff.units import format_size


def build(header: Header) -> bytes:
    """Build the header of a new image.

    :raises FormatError: the header, the backing file's name or the refcount table is too long.
    """
    geometry = header.geometry
    more = _version_3_part(header) if header.version >= 3 else b""
    fixed_length = V2_LENGTH + len(more)
    name = (header.backing_name or "").encode("utf-8", "surrogateescape")
    extensions = b""
    if header.backing_format is not None:
        extensions += packed_extension(BACKING_FORMAT, header.backing_format.encode())
    if header.luks_header is not None:
        extensions += packed_encryption(*header.luks_header)
    if header.data_file is not None:
        extensions += packed_data_file(header.data_file)
    extensions += end_of_extensions()
    # The name follows the extensions, and must end in the first cluster.
    name_offset = fixed_length + len(extensions) if name else 0
    length = fixed_length + len(extensions) + len(name)
    if len(name) > MAX_NAME:
        raise FormatError(f"the template's path is {len(name)} bytes long; a qcow2 header allows {MAX_NAME}")
    if length > geometry.cluster_size:
        raise FormatError(
            f"the header with the template's path takes {length} bytes, more than"
            f" one cluster of {geometry.cluster_size} bytes"
        )
    if header.refcount_bytes > MAX_REFCOUNT_TABLE_BYTES:
        raise FormatError(
            f"its refcount table would take {header.refcount_bytes} bytes, more than the"
            f" {format_size(MAX_REFCOUNT_TABLE_BYTES)} that QEMU reads"
        )
    fixed = FIXED.pack(
        MAGIC,
        header.version,
        name_offset,
        len(name),
        geometry.cluster_bits,
        header.virtual_size,
        LUKS if header.luks_header is not None else 0,
        header.l1_entries,
        header.l1_offset,
        header.refcount_offset,
        header.refcount_bytes // geometry.cluster_size,
        0,
        0,
    )
    return fixed + more + extensions + name


def _version_3_part(header: Header) -> bytes:
    geometry = header.geometry
    incompatible = (EXTENDED_L2 if geometry.extended_l2 else 0) | (
        COMPRESSION_TYPE if geometry.compression_type else 0
    )
    incompatible |= DATA_FILE if geometry.external_data else 0
    compatible = LAZY_REFCOUNTS if header.lazy_refcounts else 0
    order = geometry.refcount_bits.bit_length() - 1
    return V3.pack(incompatible, compatible, 0, order, V3_LENGTH, geometry.compression_type)
