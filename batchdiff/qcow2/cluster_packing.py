"""Placement of compressed clusters: they are packed byte after byte; uncompressed ones take whole clusters.

::

    | c1 c2 c3 c4-|-c4 .... | uncompressed | c5 ...      c4 may continue into the next cluster of the file only
                                                        if nothing has been placed there yet

Source: QEMU ``block/qcow2-refcount.c``, qcow2_alloc_bytes().
"""

from __future__ import annotations

from batchdiff.units import align_up


class Packer:
    """An allocator of file offsets from ``start`` on, which is aligned to a cluster."""

    def __init__(self, start: int, cluster_size: int) -> None:
        self._cluster_size = cluster_size
        self._cursor = start
        self.end = start
        """The first byte after the last cluster of the file that has been allocated."""

    def place(self, length: int | None) -> int:
        """Allocate space for a compressed cluster of that length, or for an uncompressed one (None).

        Return its file offset.
        """
        if length is None:
            offset, self.end = self.end, self.end + self._cluster_size
            return offset
        room_ends = align_up(self._cursor, self._cluster_size)
        if room_ends != self.end and self._cursor + length > room_ends:
            self._cursor = self.end  # the cluster after the one in progress is taken
        offset, self._cursor = self._cursor, self._cursor + length
        self.end = max(self.end, align_up(self._cursor, self._cluster_size))
        return offset
