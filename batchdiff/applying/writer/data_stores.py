"""Places for a new image's data clusters."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from batchdiff.applying.writer.data_copy import Copier
from batchdiff.extents import Extents, Kind
from batchdiff.files.read_write import write_all
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.linux.machine import usable_cpus
from batchdiff.qcow2.cluster_packing import Packer
from batchdiff.qcow2.compression import compress
from batchdiff.qcow2.entries import COPIED, Words, compressed_entry
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import SECTOR, align_up


class DataStore(Protocol):
    """A place for the data clusters of a new image."""

    @property
    def end(self) -> int:
        """The offset at which the data clusters end in the image's own file."""

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:
        """Write the DATA extents, and return the L2 entry of each of ``clusters``.

        ``extents``: in granules. ``clusters``: numbers of guest clusters, ascending.
        """

    def refcounts(self) -> npt.NDArray[np.uint16] | None:
        """Return the refcounts of the data clusters in the image's own file; None if each is 1."""


class PlainStore:
    """Uncompressed data clusters, in the guest's order."""

    def __init__(self, copier: Copier, geometry: Geometry, start: int) -> None:
        self._copier, self._geometry = copier, geometry
        self.end = start

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:
        """See :class:`DataStore`."""
        geometry = self._geometry
        hosts = self.end + np.arange(len(clusters), dtype=np.int64) * geometry.cluster_size
        for first, count in extents.pairs(Kind.DATA).tolist():
            cluster, within = divmod(first, geometry.granules)
            host = int(hosts[np.searchsorted(clusters, cluster)]) + within * geometry.granule
            self._copier.copy(first * geometry.granule, (first + count) * geometry.granule, host)
        self.end += len(clusters) * geometry.cluster_size
        return hosts.astype(np.uint64) | COPIED

    def refcounts(self) -> npt.NDArray[np.uint16] | None:
        """Return None: each is 1."""
        return None


class OutsideStore:
    """Data clusters in another file, each at its offset on the disk."""

    def __init__(self, copier: Copier, geometry: Geometry, start: int) -> None:
        self._copier, self._geometry = copier, geometry
        self.end = start

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:
        """See :class:`DataStore`."""
        granule = self._geometry.granule
        for first, count in extents.pairs(Kind.DATA).tolist():
            self._copier.copy(first * granule, (first + count) * granule, first * granule)
        return (clusters * self._geometry.cluster_size).astype(np.uint64) | COPIED

    def refcounts(self) -> npt.NDArray[np.uint16] | None:
        """Return None: no data cluster is in the image's own file."""
        return None


class UnwrittenStore:
    """Places for data clusters that are not written here."""

    def __init__(self, geometry: Geometry, start: int, *, outside: bool) -> None:
        self._geometry, self._outside = geometry, outside
        self.end = start

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:  # noqa: ARG002
        """See :class:`DataStore`; nothing is written."""
        size = self._geometry.cluster_size
        if self._outside:
            return (clusters * size).astype(np.uint64) | COPIED
        hosts = self.end + np.arange(len(clusters), dtype=np.int64) * size
        self.end += len(clusters) * size
        return hosts.astype(np.uint64) | COPIED

    def refcounts(self) -> npt.NDArray[np.uint16] | None:
        """Return None: each is 1."""
        return None


class CompressedStore:
    """Clusters packed in compressed form, or stored uncompressed if compression does not make them smaller."""

    def __init__(self, copier: Copier, geometry: Geometry, start: int, *, level: int | None = None) -> None:
        self._copier, self._geometry, self._level = copier, geometry, level
        self._start = start
        self._packer = Packer(start, geometry.cluster_size, geometry.most_uses)
        self._used = np.zeros(1024, dtype=np.uint16)
        self._threads = usable_cpus()
        # Each cluster in progress needs a buffer until it is written.
        self._buffers = itertools.cycle([ReadBuffer(geometry.cluster_size) for _ in range(4 * self._threads + 2)])

    @property
    def end(self) -> int:
        """See :class:`DataStore`."""
        return self._packer.end

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:  # noqa: ARG002
        """See :class:`DataStore`; a cluster is written whole, even if only a part of it is DATA."""
        hosts = []
        for data, packed in self._compressed(clusters.tolist()):
            hosts.append(self._write(data, packed))
            self._copier.advance(len(data))
        return np.array(hosts, dtype=np.uint64)

    def _compressed(self, clusters: list[int]) -> Iterator[tuple[memoryview, bytes | None]]:
        """Yield each cluster and its compressed form, None if that is not smaller."""
        size, kind = self._geometry.cluster_size, self._geometry.compression_type
        ahead: deque[tuple[memoryview, Future[bytes | None]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for number in clusters:
                self._copier.check()
                data = next(self._buffers).load(self._copier.guest, number * size, size)
                ahead.append((data, pool.submit(compress, data, kind, self._level)))
                if len(ahead) > 4 * self._threads:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for data, future in ahead:
                yield data, future.result()

    def _write(self, data: memoryview, packed: bytes | None) -> int:
        stored = data if packed is None else packed
        offset = self._packer.place(None if packed is None else len(packed))
        write_all(self._copier.fd, stored, offset)
        self._count(offset, len(stored))
        return offset | int(COPIED) if packed is None else compressed_entry(offset, len(stored), self._geometry)

    def _count(self, offset: int, length: int) -> None:
        size = self._geometry.cluster_size
        # The entry names whole sectors, and QEMU counts every cluster that they touch.
        first, last = (
            (offset - self._start) // size,
            (align_up(offset + length, SECTOR) - 1 - self._start) // size,
        )
        while last >= len(self._used):
            self._used = np.concatenate([self._used, np.zeros_like(self._used)])
        self._used[first : last + 1] += 1

    def refcounts(self) -> npt.NDArray[np.uint16]:
        """See :class:`DataStore`."""
        return self._used[: (self.end - self._start) // self._geometry.cluster_size]
