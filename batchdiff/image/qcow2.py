"""The layer of a qcow2 image.

::

    header -> offsets of the L2 tables (kept) -> slices of L2 tables (read for each range) -> segments

Source: QEMU ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Backing, CompressedCluster, Losses, Segment, WithOthers, clip_segments
from batchdiff.image.qcow2_extras import check_extras, check_in_data_file, in_data_file, open_data_file
from batchdiff.image.qcow2_tables import (
    L2Tables,
    entries_in,
    error_refused,
    read_entries,
    read_header,
    read_l2_tables,
    read_words,
)
from batchdiff.image.raw import RawLayer
from batchdiff.image_source import ImageSource
from batchdiff.qcow2 import compression, entries
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.refcounts import Refcounts
from batchdiff.qcow2.references import check_entries, check_references, metadata_of, require_apart
from batchdiff.units import ceil_div

_ENTRIES_AT_FIRST = 256
"""Half the number of L2 entries that a search for data reads first: a page holds 512 standard entries."""

_ORIGINS = tuple(Origin)
_ADDRESS = operator.attrgetter("address")


class Qcow2Layer(WithOthers):
    """One qcow2 image; ``others`` has its external data file, if there is one.

    ``file``: the image's file if it is open already; it is closed with this layer, or if an error is raised.
    """

    others: tuple[RawLayer, ...] = ()

    def __init__(
        self, source: ImageSource, observer: ReadObserver | None = None, file: ImageFile | None = None
    ) -> None:
        self._file = file or ImageFile(source.path, observer)
        self.path, self.fd = source.path, self._file.fd
        self._size = self._file.size
        self._has_holes = not self._file.is_block_device
        try:
            self.header = read_header(self._file)
            if (name := self.header.data_file) is not None:
                self.others = (open_data_file(source, name, observer),)
        except BaseException:
            self.close()
            raise
        self._unpacked: tuple[int, bytes] = (-1, b"")

    @property
    def virtual_size(self) -> int:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self.header.virtual_size

    @property
    def backing(self) -> Backing | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        name = self.header.backing_name
        return None if name is None else Backing(name, self.header.backing_format)

    @property
    def losses(self) -> Losses:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return Losses(self.header.snapshots, self.header.bitmaps, self.header.luks_header is not None)

    @cached_property
    def _l2(self) -> L2Tables:
        return read_l2_tables(self._file, self.header)

    def read_tables(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        _ = self._l2

    def inspect(self, *, refcounts: bool = False) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        try:
            self._check_tables(refcounts)
        except FormatError as error:
            raise error_refused(self.path, error) from error

    def _check_tables(self, refcounts: bool) -> None:
        header, geometry = self.header, self.header.geometry
        words = read_words(self._file, header.refcount_offset, header.refcount_bytes // 8)
        blocks = entries.check_refcount_table(words, geometry, self._size)
        beyond = [read_l2_tables(self._file, header, beyond=True).offsets] if refcounts else []
        tables = np.concatenate([self._l2.offsets, *beyond])
        metadata = metadata_of(header, blocks, tables)
        require_apart(metadata, geometry.cluster_size)
        metadata = check_extras(self._file, header, metadata)
        if self.others:
            check_in_data_file(self._file, header, self._l2, self.others[0].file.size)

        def references() -> Iterator[entries.Words]:
            # Only clusters of the image's own file have refcounts, not those of a data file.
            return iter(()) if self.others else (words for _, words in entries_in(self._file, header, tables))

        if refcounts:
            order = geometry.refcount_bits.bit_length() - 1
            counts = Refcounts(words, order, geometry.cluster_size, self._file.read_exactly)
            check_references(references, metadata, counts, geometry=geometry, size=self._size)
        else:
            check_entries(references, geometry, self._size)

    def _l2_slice(self, table: int, first: int, count: int) -> entries.Words:
        geometry = self.header.geometry
        return read_entries(self._file, geometry, table + first * geometry.entry_size, count)

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`."""
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
        """For each L1 entry of a range, yield guest offset, L1 index, first L2 entry and number of L2 entries."""
        geometry = self.header.geometry
        cluster, last = start // geometry.cluster_size, ceil_div(end, geometry.cluster_size)
        while cluster < last:
            index, begin = divmod(cluster, geometry.l2_entries)
            count = min(geometry.l2_entries - begin, last - cluster)
            yield cluster * geometry.cluster_size, index, begin, count
            cluster += count

    def _segments(self, words: npt.NDArray[np.uint64], first: int, start: int, end: int) -> list[Segment]:
        """Join L2 entries into segments. ``first``: the guest offset of the first entry."""
        geometry = self.header.geometry
        origin, address = entries.granules(words, geometry)
        if self.header.backing_name is None:
            # Nothing can show through, so ABSENT and ZERO both read as zeros, and can be joined.
            origin[origin == Origin.ABSENT] = Origin.ZERO
        # joins[i]: granule i + 1 continues the segment of granule i. In the file, their data must be adjacent.
        joins = (origin[1:] == origin[:-1]) & np.where(
            origin[1:] == Origin.FILE,
            address[1:] == address[:-1] + geometry.granule,
            # A compressed cluster is one segment, even if its entry covers 32 subclusters.
            (origin[1:] != Origin.COMPRESSED) | self._same_cluster(len(origin)),
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
        cut = clip_segments(found, start, end)
        if self.others:
            return in_data_file(self.others[0], cut)
        return sorted(self._with_holes(cut)) if self._has_holes and not self.header.luks_header else cut

    def _with_holes(self, segments: list[Segment]) -> Iterator[Segment]:
        """Yield the segments in any order; holes of the file become ZERO.

        Each run of data is looked up only once, for all segments in it. When it was looked up for each segment, a
        plan took 1.2 times as long.
        """
        known = (0, 0)
        for segment in sorted(segments, key=_ADDRESS):
            begin, end = segment.address, segment.address + segment.end - segment.start
            if segment.origin is not Origin.FILE or (known[0] <= begin and end <= known[1]):
                yield segment
                continue
            # ``at``: the file offset up to which the segment has been split so far.
            shift, at = segment.start - begin, begin
            for known in self._file.data_runs(begin, min(end, self._size)):
                if known[0] > at:
                    yield Segment(at + shift, known[0] + shift, Origin.ZERO, 0, 0)
                # Past the end of a truncated file the segment stays FILE, so that reading reports the damage.
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
        """See :class:`~batchdiff.image.layer.Layer`."""
        geometry = self.header.geometry
        index, entry = divmod(start // geometry.cluster_size, geometry.l2_entries)
        for used, table in self._l2.since(index):
            found = self._entry_with_data(table, entry if used == index else 0)
            if found is not None:
                offset = max(start, (used * geometry.l2_entries + found) * geometry.cluster_size)
                data = self.others[0].next_data(offset) if self.others else offset
                return data if data is not None and data < self.virtual_size else None
        return None

    def _entry_with_data(self, table: int, first: int) -> int | None:
        geometry, count = self.header.geometry, _ENTRIES_AT_FIRST
        while first < geometry.l2_entries:
            first = max(first, self._after_hole(table, first))
            # Twice as many each time: usually there is data among the first few entries.
            count = min(count * 2, geometry.l2_entries - first)
            if count > 0:
                found = entries.clusters_with_data(self._l2_slice(table, first, count), geometry)
                if found.any():
                    return first + int(found.argmax())
            first += max(count, 1)
        return None

    def _after_hole(self, table: int, first: int) -> int:
        geometry = self.header.geometry
        if not self._has_holes:
            return first
        data = self._file.next_data(table + first * geometry.entry_size)
        end = table + geometry.cluster_size
        return (min(data, end) - table) // geometry.entry_size if data is not None else geometry.l2_entries

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        if segment.origin is Origin.COMPRESSED:
            within = segment.start % self.header.geometry.cluster_size
            buffer[:] = self._unpack(segment.address)[within : within + len(buffer)]
            if within + len(buffer) == self.header.geometry.cluster_size:
                self._unpacked = (-1, b"")  # free it, because callers usually read forward
            return
        # No segment reaches past the virtual size, and QEMU writes everything before it in full. So a short read
        # means that the file is truncated; QEMU would silently show the missing bytes as zeros.
        self._file.fill(buffer, segment.address)

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """See :class:`~batchdiff.image.layer.Layer`."""
        geometry = self.header.geometry
        return CompressedCluster(
            geometry.compression_type, geometry.cluster_size, self._stored_cluster(segment.address)
        )

    def _stored_cluster(self, descriptor: int) -> bytes:
        offset, length = entries.compressed_extent(descriptor, self.header.geometry)
        length = min(length, max(self._size - offset, 0))
        return self._file.read_exactly(length, offset)

    def _unpack(self, descriptor: int) -> bytes:
        if self._unpacked[0] != descriptor:
            geometry, stored = self.header.geometry, self._stored_cluster(descriptor)
            try:
                data = compression.decompress(stored, geometry.compression_type, geometry.cluster_size)
            except FormatError as error:
                raise error_refused(self.path, error) from error
            self._unpacked = (descriptor, data)
        return self._unpacked[1]

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._file.fingerprint()

    def close(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        self._file.close()
        for other in self.others:
            other.close()
