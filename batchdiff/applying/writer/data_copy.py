"""Copy a guest's data into a new image: as it is, sharing blocks if the filesystem can, or compressed.

::

    plain        guest file  ==copy_file_range==>  data clusters, one after the other
    compressed   read -> threads compress -> packed in the guest's order
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind
from batchdiff.files.read_write import write_all
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image.storage.shared_blocks import shared_extents
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.linux.btrfs import is_btrfs
from batchdiff.linux.machine import usable_cpus
from batchdiff.progress import ignore
from batchdiff.qcow2.cluster_packing import Packer
from batchdiff.qcow2.compression import compress
from batchdiff.qcow2.entries import COPIED, Origin, Words, compressed_entry
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB, MIB, SECTOR, align_up

_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF}
"""The errors of copy_file_range if it cannot copy: between filesystems, from block devices, on old kernels."""

_AT_ONCE = 64 * MIB
"""The maximum that one call copies, in about 0.1 s if it shares no blocks; a stop is noticed between calls."""

_BLOCK = 4 * KIB
"""The unit in which a plan counts what an overlay takes on its disk."""


class DataStore(Protocol):
    """A place for data clusters in a file."""

    @property
    def end(self) -> int:
        """The file offset after the last data cluster."""

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:
        """Write the DATA of ``extents`` (granules), which is in ``clusters``, and return their L2 entries."""

    def refcounts(self) -> npt.NDArray[np.uint16] | None:
        """Return how often each cluster is used, from the first data cluster on; None if each is used once."""


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies from an image to a file; ``check`` is called every few MiB, and may raise an error to end it.

    ``may_share``: whether the two files may share blocks. ``advance`` is called with the number of further bytes
    that are copied, or found to need no copy.
    """

    fd: int
    guest: Image
    check: Callable[[], None]
    may_share: bool = True
    advance: Callable[[int], None] = ignore
    rule: WriteRule = field(init=False)
    buffer: ReadBuffer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", WriteRule(self.guest))
        object.__setattr__(self, "buffer", ReadBuffer(MIB))

    def copy(self, start: int, end: int, target: int) -> None:
        """Copy bytes ``start`` to ``end`` of the guest to a file offset.

        :mod:`batchdiff.image.storage.to_write` decides what is written; the rest stays a hole.
        """
        holes = end - start
        for segment in self.guest.segments(start, end):
            for part, to_write in self.rule.parts(segment):
                holes -= part.end - part.start
                if to_write is ToWrite.ALL:
                    self._copy_all(part, target + part.start - start)
                else:
                    self._copy_nonzero(part, target + part.start - start)
        self.advance(holes)

    def _copy_nonzero(self, segment: Segment, target: int) -> None:
        """Copy a segment, except blocks of the target that are all zeros."""
        for at in range(segment.start, segment.end, MIB):
            self.check()
            data = self.buffer.load(self.guest, at, min(MIB, segment.end - at))
            offset, first = target + at - segment.start, 0
            while first < len(data):
                last = min(first + _BLOCK - (offset + first) % _BLOCK, len(data))
                block = data[first:last]
                if block != bytes(len(block)):  # any() looks at each byte, which takes a hundred times as long
                    write_all(self.fd, block, offset + first)
                first = last
            self.advance(len(data))

    def _copy_all(self, segment: Segment, target: int) -> None:
        """Copy a segment: in the kernel, which shares blocks if it can, and the rest through memory."""
        for part, may_share in self._split_by_sharing(segment):
            rest, offset = part, target + part.start - segment.start
            if may_share:
                fd = self.guest.layers[part.layer].fd
                done = self._copy_in_kernel(fd, part.address, offset, part.end - part.start)
                rest, offset = _after(part, done), offset + done
            self._copy_through_memory(rest, offset)

    def _split_by_sharing(self, segment: Segment) -> Iterator[tuple[Segment, bool]]:
        """Yield the parts in which a segment is copied, each with a flag: whether its blocks may be shared.

        btrfs keeps an extent whole while any block of it is used. So share only extents that another file shares
        already: one shared block of any other extent would keep all of it when the guest is deleted.
        """
        if not self.may_share or segment.origin is not Origin.FILE:
            yield segment, False
            return
        if not is_btrfs(self.guest.layers[segment.layer].fd):
            yield segment, True
            return
        rest = segment
        for extent in shared_extents(self.guest, [segment]):
            own, rest = _split(rest, extent.start)
            shared, rest = _split(rest, extent.end)
            yield own, False
            yield shared, True
        yield rest, False

    def _copy_through_memory(self, segment: Segment, target: int) -> None:
        for at in range(segment.start, segment.end, MIB):
            self.check()
            data = self.buffer.load(self.guest, at, min(MIB, segment.end - at))
            write_all(self.fd, data, target + at - segment.start)
            self.advance(len(data))

    def _copy_in_kernel(self, source: int, source_offset: int, target_offset: int, length: int) -> int:
        """Copy with copy_file_range, and return the bytes copied: fewer at the end of the file, or if it can't."""
        done = 0
        while done < length:
            self.check()
            try:
                copied = os.copy_file_range(
                    source, self.fd, min(length - done, _AT_ONCE), source_offset + done, target_offset + done
                )
            except OSError as error:
                if error.errno in _NO_COPY:
                    return done
                raise
            if copied == 0:
                return done
            done += copied
            self.advance(copied)
        return done


def _after(segment: Segment, done: int) -> Segment:
    return segment._replace(start=segment.start + done, address=segment.address + done)


def _split(segment: Segment, offset: int) -> tuple[Segment, Segment]:
    """Split a segment at an offset of the guest; either part may be empty."""
    return segment._replace(end=offset), _after(segment, offset - segment.start)


class PlainStore:
    """Data clusters as they are, in the guest's order."""

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
        """Return None: each cluster is used once."""
        return None


class OutsideStore:
    """Data clusters in a file of their own, each at the offset that it has on the disk."""

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
        """Return None: each cluster of the image itself is used once."""
        return None


class UnwrittenStore:
    """Places for data clusters that are not written here: in this file, or in another one at their own offsets."""

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
        """Return None: each cluster is used once."""
        return None


class CompressedStore:
    """Compressed clusters, packed; threads compress while more is read. ``level``: None for the default."""

    def __init__(self, copier: Copier, geometry: Geometry, start: int, *, level: int | None = None) -> None:
        self._copier, self._geometry, self._level = copier, geometry, level
        self._start = start
        self._packer = Packer(start, geometry.cluster_size, geometry.most_uses)
        self._used = np.zeros(1024, dtype=np.uint16)
        self._threads = usable_cpus()
        # Each cluster in progress has one, which is free again once the cluster is written.
        self._buffers = itertools.cycle([ReadBuffer(geometry.cluster_size) for _ in range(4 * self._threads + 2)])

    @property
    def end(self) -> int:
        """See :class:`DataStore`."""
        return self._packer.end

    def store(self, extents: Extents, clusters: npt.NDArray[np.int64]) -> Words:  # noqa: ARG002
        """See :class:`DataStore`; compressed clusters always hold all of their bytes."""
        hosts = []
        for data, packed in self._compressed(clusters.tolist()):
            hosts.append(self._write(data, packed))
            self._copier.advance(len(data))
        return np.array(hosts, dtype=np.uint64)

    def _compressed(self, clusters: list[int]) -> Iterator[tuple[memoryview, bytes | None]]:
        """Yield each cluster and its compressed form, in order; a bounded number is in progress."""
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
        # The entry names whole sectors, and QEMU counts every cluster that they reach into.
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
