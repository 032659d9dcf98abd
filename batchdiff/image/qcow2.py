"""qcow2 images: L2 entries read in bulk for the range asked for, compressed clusters unpacked one at a time.

::

    header -> L1 table (kept) -> slices of L2 tables (read for each range) -> segments

Source: QEMU ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.image import files
from batchdiff.image.contract import Segment, clipped
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.qcow2 import compression, entries
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.header import FormatError, Header, claimed_cluster_size, parse
from batchdiff.units import KIB, ceil_div

_HEAD = 64 * KIB
"""What is read of a file to begin with: the first cluster of most."""

_ORIGINS = tuple(Origin)


class Qcow2Layer:
    """One qcow2 file without its backing file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = files.open_image_file(path)
        try:
            self._size = files.content_size(self.fd)
            self._has_holes = not files.is_block_device(self.fd)
            self.header = self._parse_header()
            self._l1 = self._read_l1()
        except BaseException:
            os.close(self.fd)
            raise
        self._unpacked: tuple[int, bytes] = (-1, b"")

    @property
    def virtual_size(self) -> int:
        """What the header says."""
        return self.header.virtual_size

    def _parse_header(self) -> Header:
        head = self._read_head(_HEAD)
        if (cluster_size := claimed_cluster_size(head)) > _HEAD:
            head = self._read_head(cluster_size)
        try:
            return parse(head, self._size)
        except FormatError as error:
            raise self._refused(error) from error

    def _read_head(self, length: int) -> bytes:
        return bytes(files.read_exactly(self.fd, min(length, self._size), 0, self.path))

    def _read_l1(self) -> npt.NDArray[np.uint64]:
        needed = ceil_div(self.header.virtual_size, self.header.geometry.l2_coverage)
        table = self._words(self.header.l1_offset, needed)
        try:
            entries.check_l1(table, self.header.geometry, self._size)
        except FormatError as error:
            raise self._refused(error) from error
        return (table & entries.OFFSET_MASK).astype(np.uint64)

    def _words(self, offset: int, count: int) -> npt.NDArray[np.uint64]:
        data = files.read_exactly(self.fd, count * 8, offset, self.path)
        return np.frombuffer(data, dtype=">u8").astype(np.uint64)

    def _refused(self, error: FormatError) -> ImageError:
        return ImageError(f"cannot use {self.path} as qcow2", why=str(error))

    def inspect(self) -> None:
        """Checks every entry of every L2 table, and that the file could hold all that they map.

        :raises ImageError: an entry is invalid, tables lie on each other, or the image is a bomb.
        """
        try:
            self._check_tables_apart()
            self._check_l2_tables()
        except FormatError as error:
            raise self._refused(error) from error

    def _check_l2_tables(self) -> None:
        mapped = 0
        for index in np.flatnonzero(self._l1).tolist():
            words = self._l2_slice(index, 0, self.header.geometry.l2_entries)
            mapped += entries.check_l2(words, self.header.geometry, self._size)
            if mapped > self._size + self.header.geometry.cluster_size:
                raise FormatError(f"its tables map more bytes than the file has ({self._size})")

    def _check_tables_apart(self) -> None:
        header, cluster = self.header, self.header.geometry.cluster_size
        tables = self._l1[self._l1 != 0].astype(np.int64)
        words = self._words(header.refcount_offset, header.refcount_bytes // 8)
        blocks = entries.check_refcount_table(words, header.geometry, self._size)
        for offset, length, name in header.tables():
            for found, what in ((tables, "an L2 table"), (blocks, "a refcount block")):
                if ((found + cluster > offset) & (found < offset + length)).any():
                    raise FormatError(f"{what} lies on the {name}")
        if len(np.intersect1d(tables, blocks, assume_unique=True)):
            raise FormatError("an L2 table lies on a refcount block")

    def _l2_slice(self, index: int, first: int, count: int) -> npt.NDArray[np.uint64]:
        """``count`` entries of an L2 table, as :func:`batchdiff.qcow2.entries.granules` wants them."""
        geometry = self.header.geometry
        words = geometry.entry_size // 8
        table = self._words(int(self._l1[index]) + first * geometry.entry_size, count * words)
        return table.reshape(-1, 2) if geometry.extended_l2 else table

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.contract.Layer`."""
        found: list[Segment] = []
        for first, index, begin, count in self._tables(start, end):
            if self._l1[index] == 0:
                stop = first + count * self.header.geometry.cluster_size
                found.append(Segment(max(first, start), min(stop, end), Origin.ABSENT, 0, 0))
            else:
                found += self._segments(self._l2_slice(index, begin, count), first, start, end)
        return found

    def _tables(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """For each L2 table of a range: guest offset of its first cluster, index, first entry, entries."""
        geometry = self.header.geometry
        cluster, last = start // geometry.cluster_size, ceil_div(end, geometry.cluster_size)
        while cluster < last:
            index, begin = divmod(cluster, geometry.l2_entries)
            count = min(geometry.l2_entries - begin, last - cluster)
            yield cluster * geometry.cluster_size, index, begin, count
            cluster += count

    def _segments(self, words: npt.NDArray[np.uint64], first: int, start: int, end: int) -> list[Segment]:
        geometry = self.header.geometry
        origin, address = entries.granules(words, geometry)
        joins = (origin[1:] == origin[:-1]) & np.where(
            origin[1:] == Origin.FILE,
            address[1:] == address[:-1] + geometry.granule,
            # A compressed cluster is one segment, also where its entry stands for 32 subclusters.
            (origin[1:] != Origin.PACKED) | self._same_cluster(len(origin)),
        )
        begins = np.concatenate([[0], np.flatnonzero(~joins) + 1])
        offsets = (begins * geometry.granule + first).tolist()
        offsets.append(first + len(origin) * geometry.granule)
        found = [
            Segment(begin, stop, _ORIGINS[kind], 0, place)
            for begin, stop, kind, place in zip(
                offsets, offsets[1:], origin[begins].tolist(), address[begins].tolist(), strict=False
            )
        ]
        return [part for segment in clipped(found, start, end) for part in self._at_holes(segment)]

    def _at_holes(self, segment: Segment) -> list[Segment]:
        """A FILE segment with the file's own holes as ZERO: clusters that were allocated, but never written."""
        if segment.origin is not Origin.FILE or not self._has_holes:
            return [segment]
        found = []
        shift, end = segment.start - segment.address, segment.address + segment.end - segment.start
        at = segment.address
        while at < end:
            data = files.seek(self.fd, at, os.SEEK_DATA, self.path)
            # What lies past the end of a truncated file stays FILE, for reading to find.
            data = min(self._size if data is None else data, end) if at < self._size else at
            if data > at:
                found.append(Segment(at + shift, data + shift, Origin.ZERO, 0, 0))
            if data < end:
                hole = files.seek(self.fd, data, os.SEEK_HOLE, self.path) if data < self._size else end
                at = end if hole is None or hole >= self._size else min(hole, end)
                found.append(Segment(data + shift, at + shift, Origin.FILE, 0, data))
            else:
                at = end
        return found

    def _same_cluster(self, granules: int) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = np.arange(1, granules) % self.header.geometry.granules != 0
        return inside

    def next_data(self, start: int) -> int | None:
        """The first byte from ``start`` on that an L2 table covers."""
        coverage = self.header.geometry.l2_coverage
        tables = np.flatnonzero(self._l1[start // coverage :])
        return max(start, (start // coverage + int(tables[0])) * coverage) if len(tables) else None

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Reads a FILE segment, or unpacks the cluster that a PACKED one is part of."""
        if segment.origin is Origin.PACKED:
            within = segment.start % self.header.geometry.cluster_size
            buffer[:] = self._cluster(segment.address)[within : within + len(buffer)]
            return
        # Nothing past the virtual size is asked for, and what is before it, QEMU writes in full: fewer bytes
        # mean a truncated file, whose missing ones QEMU would silently show as zeros.
        files.fill_from(self.fd, buffer, segment.address, self.path)

    def _cluster(self, descriptor: int) -> bytes:
        if self._unpacked[0] != descriptor:
            geometry = self.header.geometry
            offset, length = entries.packed_extent(descriptor, geometry)
            packed = files.read_exactly(self.fd, min(length, max(self._size - offset, 0)), offset, self.path)
            try:
                data = compression.decompress(bytes(packed), geometry.compression_type, geometry.cluster_size)
            except FormatError as error:
                raise self._refused(error) from error
            self._unpacked = (descriptor, data)
        return self._unpacked[1]

    def fingerprint(self) -> Fingerprint:
        """The file's fingerprint now."""
        return files.identify(self.fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self.fd)
