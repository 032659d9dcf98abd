"""qcow2 images: L2 entries read in bulk for the range asked for, compressed clusters unpacked one at a time.

::

    header -> L2 tables that there are (kept) -> slices of L2 tables (read for each range) -> segments

Source: QEMU ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchdiff.image import files
from batchdiff.image.contract import Packed, Segment, clipped
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.image.qcow2_extras import check_extras
from batchdiff.image.qcow2_tables import read_header, read_l2_tables, read_words, refused
from batchdiff.qcow2 import compression, entries
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError
from batchdiff.units import ceil_div

_ENTRIES_AT_FIRST = 256
"""Half of the L2 entries that are looked at first for data: a page of them."""

_ORIGINS = tuple(Origin)
_ADDRESS = operator.attrgetter("address")


class Qcow2Layer:
    """One qcow2 file without its backing file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = files.open_image_file(path)
        try:
            self._size = files.content_size(self.fd)
            self._has_holes = not files.is_block_device(self.fd)
            self.header = read_header(self.fd, path, self._size)
            self._l2 = read_l2_tables(self.fd, path, self.header, self._size)
        except BaseException:
            os.close(self.fd)
            raise
        self._unpacked: tuple[int, bytes] = (-1, b"")

    @property
    def virtual_size(self) -> int:
        """What the header says."""
        return self.header.virtual_size

    def inspect(self) -> None:
        """Check every entry of every L2 table, that the file can hold all that they map, and what else is in it.

        :raises ImageError: an entry is invalid, tables lie on each other, the image is a bomb, or QEMU would not
            open it for its snapshots or bitmaps.
        """
        try:
            self._check_tables_apart()
            self._check_l2_tables()
            check_extras(self.fd, self.path, self.header, self._size)
        except FormatError as error:
            raise refused(self.path, error) from error

    def _check_l2_tables(self) -> None:
        mapped = 0
        for _, table in self._l2.since(0):
            if self._after_hole(table, 0) == self.header.geometry.l2_entries:
                continue
            words = self._l2_slice(table, 0, self.header.geometry.l2_entries)
            mapped += entries.check_l2(words, self.header.geometry, self._size)
            if mapped > self._size + self.header.geometry.cluster_size:
                raise FormatError(f"its tables map more bytes than the file has ({self._size})")

    def _check_tables_apart(self) -> None:
        header, cluster = self.header, self.header.geometry.cluster_size
        tables = self._l2.offsets
        words = read_words(self.fd, self.path, header.refcount_offset, header.refcount_bytes // 8)
        blocks = entries.check_refcount_table(words, header.geometry, self._size)
        for offset, length, name in header.tables():
            for found, what in ((tables, "an L2 table"), (blocks, "a refcount block")):
                if ((found + cluster > offset) & (found < offset + length)).any():
                    raise FormatError(f"{what} lies on the {name}")
        if len(np.intersect1d(tables, blocks, assume_unique=True)):
            raise FormatError("an L2 table lies on a refcount block")

    def _l2_slice(self, table: int, first: int, count: int) -> entries.Words:
        """``count`` entries of the L2 table there, as :func:`batchdiff.qcow2.entries.granules` wants them."""
        geometry = self.header.geometry
        words = geometry.entry_size // 8
        found = read_words(self.fd, self.path, table + first * geometry.entry_size, count * words)
        return found.reshape(-1, 2) if geometry.extended_l2 else found

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.contract.Layer`."""
        found: list[Segment] = []
        for first, index, begin, count in self._tables(start, end):
            table = self._l2.at(index)
            if table == 0:
                stop = first + count * self.header.geometry.cluster_size
                found.append(Segment(max(first, start), min(stop, end), Origin.ABSENT, 0, 0))
            else:
                found += self._segments(self._l2_slice(table, begin, count), first, start, end)
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
        if self.header.backing_name is None:
            # Nothing can show through, so both kinds read as zeros: one segment for many.
            origin[origin == Origin.ABSENT] = Origin.ZERO
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
        cut = clipped(found, start, end)
        return sorted(self._with_holes(cut)) if self._has_holes else cut

    def _with_holes(self, segments: list[Segment]) -> Iterator[Segment]:
        """The segments by address, the file's own holes as ZERO: clusters that were allocated, never written.

        A run of data is asked for once for all that lies in it: finding its end takes the filesystem a while, and
        a plan of four images of 2 GiB took 1.2 times as long when each segment asked.
        """
        known = (0, 0)
        for segment in sorted(segments, key=_ADDRESS):
            begin, end = segment.address, segment.address + segment.end - segment.start
            if segment.origin is not Origin.FILE or (known[0] <= begin and end <= known[1]):
                yield segment
                continue
            shift, at = segment.start - begin, begin
            for known in files.data_runs(self.fd, begin, min(end, self._size), self.path):
                if known[0] > at:
                    yield Segment(at + shift, known[0] + shift, Origin.ZERO, 0, 0)
                # What lies past the end of a truncated file stays FILE, for reading to find.
                at = end if known[1] >= self._size else min(known[1], end)
                yield Segment(known[0] + shift, at + shift, Origin.FILE, 0, known[0])
            hole = min(max(at, self._size), end)
            if at < hole:
                yield Segment(at + shift, hole + shift, Origin.ZERO, 0, 0)
            if hole < end:
                yield Segment(hole + shift, end + shift, Origin.FILE, 0, hole)

    def _same_cluster(self, granules: int) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = np.arange(1, granules) % self.header.geometry.granules != 0
        return inside

    def next_data(self, start: int) -> int | None:
        """The first byte from ``start`` on of a cluster with bytes in the file, or ``start`` inside one."""
        geometry = self.header.geometry
        index, entry = divmod(start // geometry.cluster_size, geometry.l2_entries)
        for used, table in self._l2.since(index):
            found = self._entry_with_data(table, entry if used == index else 0)
            if found is not None:
                offset = max(start, (used * geometry.l2_entries + found) * geometry.cluster_size)
                return offset if offset < self.virtual_size else None
        return None

    def _entry_with_data(self, table: int, first: int) -> int | None:
        """The first entry from ``first`` on, of the L2 table there, for a cluster with bytes in the file."""
        geometry, count = self.header.geometry, _ENTRIES_AT_FIRST
        while first < geometry.l2_entries:
            first = max(first, self._after_hole(table, first))
            # More each time: mostly the first few entries tell.
            count = min(count * 2, geometry.l2_entries - first)
            if count > 0:
                found = entries.clusters_with_data(self._l2_slice(table, first, count), geometry)
                if found.any():
                    return first + int(found.argmax())
            first += max(count, 1)
        return None

    def _after_hole(self, table: int, first: int) -> int:
        """The entry of the L2 table there where the hole that ``first`` is in ends; at most the table's end."""
        geometry = self.header.geometry
        if not self._has_holes:
            return first
        data = files.seek(self.fd, table + first * geometry.entry_size, os.SEEK_DATA, self.path)
        end = table + geometry.cluster_size
        return (min(data, end) - table) // geometry.entry_size if data is not None else geometry.l2_entries

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Reads a FILE segment, or unpacks the cluster that a PACKED one is part of."""
        if segment.origin is Origin.PACKED:
            within = segment.start % self.header.geometry.cluster_size
            buffer[:] = self._cluster(segment.address)[within : within + len(buffer)]
            if within + len(buffer) == self.header.geometry.cluster_size:
                self._unpacked = (-1, b"")  # nobody reads backwards; kept, it would be one for each image
            return
        # Nothing past the virtual size is asked for, and what is before it, QEMU writes in full: fewer bytes
        # mean a truncated file, whose missing ones QEMU would silently show as zeros.
        files.fill_from(self.fd, buffer, segment.address, self.path)

    def packed(self, segment: Segment) -> Packed:
        """See :class:`~batchdiff.image.contract.Layer`."""
        geometry = self.header.geometry
        return Packed(geometry.compression_type, geometry.cluster_size, self._packed(segment.address))

    def _packed(self, descriptor: int) -> bytes:
        offset, length = entries.packed_extent(descriptor, self.header.geometry)
        length = min(length, max(self._size - offset, 0))
        return files.read_exactly(self.fd, length, offset, self.path)

    def _cluster(self, descriptor: int) -> bytes:
        if self._unpacked[0] != descriptor:
            geometry, packed = self.header.geometry, self._packed(descriptor)
            try:
                data = compression.decompress(packed, geometry.compression_type, geometry.cluster_size)
            except FormatError as error:
                raise refused(self.path, error) from error
            self._unpacked = (descriptor, data)
        return self._unpacked[1]

    def fingerprint(self) -> Fingerprint:
        """The file's fingerprint now."""
        return files.identify(self.fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self.fd)
