"""Where compressed clusters go: byte after byte, while uncompressed ones take whole clusters of the file.

::

    | c1 c2 c3 c4-|-c4 .... | uncompressed | c5 ...      c4 may run on into the next cluster of the file only
                                                        where that is free, which it is until something follows

Source: QEMU ``block/qcow2-refcount.c``, qcow2_alloc_bytes().
"""

from __future__ import annotations

from batchdiff.units import align_up


class Packer:
    """Hands out file offsets from ``start`` on, which is aligned to a cluster."""

    def __init__(self, start: int, cluster_size: int) -> None:
        self._cluster_size = cluster_size
        self._cursor = start
        self.end = start
        """First byte after the last cluster of the file that has been handed out."""

    def place(self, length: int | None) -> int:
        """The offset for a compressed cluster of that length, or for an uncompressed one (None)."""
        if length is None:
            offset, self.end = self.end, self.end + self._cluster_size
            return offset
        room_ends = align_up(self._cursor, self._cluster_size)
        if room_ends != self.end and self._cursor + length > room_ends:
            self._cursor = self.end  # what follows the started cluster is taken
        offset, self._cursor = self._cursor, self._cursor + length
        self.end = max(self.end, align_up(self._cursor, self._cluster_size))
        return offset
