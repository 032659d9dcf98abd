"""Microsoft's VHD (vpc in QEMU): a footer of 512 bytes at the end; a dynamic image has a copy of it at its start.

Source: QEMU ``block/vpc.c``; Microsoft, "Virtual Hard Disk Image Format Specification", 1.0.
"""

from __future__ import annotations

import struct

from batchdiff.foreign.header import Outline, ReadAt, exactly, require_mappable
from batchdiff.foreign.vdi import DIFFERENCE, MERGE
from batchdiff.qcow2.faults import WRONG_FORMAT, require

_FOOTER, _FOOTER_BYTES = struct.Struct(">8s8xQ24xQ4xI"), 512
_TABLE = struct.Struct(">8s8xQ4xII")
_MARK = b"conectix"
_CHECKSUM_AT = 64
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4


_SMALL, _LARGE = 16 * 63 * 512, 16 * 255 * 512
"""The size in bytes of the largest cylinder of a small disk, and of a large one."""


_FORGED = (
    "Copy all but its last 512 bytes into a raw image (`head -c -512 IMAGE > COPY`), and use that in the manifest"
    " with `format: raw`."
)


def largest_cylinder(virtual_size: int) -> int:
    """Return the size in bytes of the largest cylinder that a VHD of this virtual size can have.

    A conversion can change a disk's size by less than a cylinder: by default, QEMU rounds the size of a new VHD up
    to whole cylinders, and rounds down the size of a VHD that VirtualBox created.

    Source: the specification, appendix "CHS Calculation"; QEMU ``calculate_geometry()``.
    """
    return _LARGE if virtual_size >= 65535 * _SMALL else _SMALL


def inspect_vpc(read: ReadAt, file_size: int) -> Outline:
    """Inspect the metadata of a VHD image, except the entries of its block table.

    The outline's clusters are a dynamic image's blocks; a fixed image counts as one cluster.

    :raises FormatError: the image cannot be used, or may be forged.
    """
    first, last = read(0, _FOOTER_BYTES), read(max(file_size - _FOOTER_BYTES, 0), _FOOTER_BYTES)
    # QEMU uses the copy at the start if there is one. Only a fixed image has none.
    is_copied = first.startswith(_MARK)
    footer = first if is_copied else last
    require(
        len(footer) == _FOOTER_BYTES and footer.startswith(_MARK),
        "it is not a VHD image: it has no footer",
        remedy=WRONG_FORMAT,
    )
    _require_checksum(footer)
    _, table_header_at, size, kind = _FOOTER.unpack_from(footer)
    # The guest of a fixed image can forge a footer in the first sector; other programs may use the one at the end.
    last_kind = _FOOTER.unpack_from(last)[-1] if last.startswith(_MARK) else kind
    is_forged = is_copied and last_kind == _FIXED
    require(
        not is_forged,
        "it is a fixed image whose guest may have forged the header of a dynamic one",
        remedy=_FORGED,
    )
    # QEMU ignores the parent of a differencing image, and shows zeros where the parent's data would be.
    require(kind != _DIFFERENCING, DIFFERENCE, remedy=MERGE)
    require(
        kind == (_DYNAMIC if is_copied else _FIXED),
        f"its disk type {kind} is unknown, or contradicts the place of its footer",
    )
    require(
        last_kind == kind,
        f"its footers contradict each other: disk type {kind} at the start, {last_kind} at the end",
    )
    if is_copied:
        head = exactly(read, table_header_at, _TABLE.size, "block table header")
        return Outline(_inspect_table(head, file_size))
    require(
        size <= file_size - _FOOTER_BYTES,
        f"its disk of {size} B and its footer do not fit into the file ({file_size} B), which is truncated or"
        " damaged",
    )
    return Outline(1)


def _require_checksum(footer: bytes) -> None:
    found = int.from_bytes(footer[_CHECKSUM_AT : _CHECKSUM_AT + 4], "big")
    right = ~(sum(footer) - sum(footer[_CHECKSUM_AT : _CHECKSUM_AT + 4])) & 0xFFFFFFFF
    require(found == right, "it is damaged: the checksum of its footer is wrong")


def _inspect_table(head: bytes, file_size: int) -> int:
    cookie, table_at, blocks, block = _TABLE.unpack(head)
    require(cookie == b"cxsparse", "it is damaged: the header of its block table is missing")
    require(block >= 512 and block & (block - 1) == 0, f"a block size of {block} B is invalid")
    # QEMU refuses a disk that is larger than all its blocks together.
    count = require_mappable(blocks * block, block)
    require(table_at + blocks * 4 <= file_size, "its block table ends past the end of the file")
    return count
