"""Placement of compressed clusters, which are packed end to end; uncompressed ones take whole clusters.

::

    | c1 c2 c3 c4-|-c4 .... | uncompressed | c5 ...      c4 may continue into the next cluster of the file only
                                                        if nothing has been placed there yet

Source: QEMU ``block/qcow2-refcount.c``, qcow2_alloc_bytes().
"""

from __future__ import annotations

from batchdiff.units import align_up


class Packer:
    """An allocator of space in a file. ``start``: the first offset, which must be aligned to a cluster.

    ``most_uses``: how many compressed clusters can have parts in one cluster of the file.
    """

    def __init__(self, start: int, cluster_size: int, most_uses: int) -> None:
        self._cluster_size, self._most_uses = cluster_size, most_uses
        self._cursor = start
        self._uses = 0  # of the cluster of the file in which the cursor is
        self.end = start
        """The file offset at which the allocated clusters end."""

    def place(self, length: int | None) -> int:
        """Allocate ``length`` bytes for a compressed cluster, or a whole cluster (None); return the offset."""
        if length is None:
            offset, self.end = self.end, self.end + self._cluster_size
            return offset
        room_ends = align_up(self._cursor, self._cluster_size)
        if self._uses == self._most_uses or (room_ends != self.end and self._cursor + length > room_ends):
            # The refcount of the cluster in progress is at its maximum, or the data does not fit into the rest of
            # that cluster, and the next cluster is occupied.
            self._cursor, self._uses = self.end, 0
        offset, self._cursor = self._cursor, self._cursor + length
        self.end = max(self.end, align_up(self._cursor, self._cluster_size))
        # Is the cursor in the next cluster, and is something stored there?
        left = self._cursor // self._cluster_size > offset // self._cluster_size
        reached = self._cursor % self._cluster_size > 0
        self._uses = int(reached) if left else self._uses + 1
        return offset
