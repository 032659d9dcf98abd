"""qcow2 images with chosen bytes wrong: a good file as bytes, its fields by name (QEMU docs/interop/qcow2.txt)."""

from __future__ import annotations

import struct
from pathlib import Path

_FIELDS = {
    "magic": (0, ">I"),
    "version": (4, ">I"),
    "backing_offset": (8, ">Q"),
    "backing_size": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "virtual_size": (24, ">Q"),
    "encryption": (32, ">I"),
    "l1_entries": (36, ">I"),
    "l1_offset": (40, ">Q"),
    "refcount_offset": (48, ">Q"),
    "refcount_clusters": (56, ">I"),
    "snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"),
    "autoclear": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "compression_type": (104, ">B"),
}

OFFSET = 0x00FFFFFFFFFFFE00
"""The bits of an L1 or L2 entry that are an offset."""


class Patched:
    """A qcow2 file's bytes. ``image["version"] = 4`` sets a header field, ``image[offset] = word`` 8 bytes."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())

    def __getitem__(self, field: str | int) -> int:
        at, form = self._place(field)
        return struct.unpack_from(form, self.data, at)[0]

    def __setitem__(self, field: str | int, value: int) -> None:
        at, form = self._place(field)
        struct.pack_into(form, self.data, at, value)

    def _place(self, field: str | int) -> tuple[int, str]:
        return (field, ">Q") if isinstance(field, int) else _FIELDS[field]

    @property
    def cluster(self) -> int:
        return 1 << self["cluster_bits"]

    def l1(self, index: int) -> int:
        """The file offset of an L1 entry."""
        return self["l1_offset"] + index * 8

    def l2(self, index: int, *, table: int = 0, entry_size: int = 8) -> int:
        """The file offset of an entry of the L2 table that an L1 entry names."""
        return (self[self.l1(table)] & OFFSET) + index * entry_size

    def put(self, offset: int, data: bytes) -> None:
        """Replaces bytes, at the end also beyond it."""
        self.data[offset : offset + len(data)] = data

    def save(self, path: Path) -> Path:
        """Writes the file."""
        path.write_bytes(self.data)
        return path
