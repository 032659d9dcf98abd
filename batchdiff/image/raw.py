"""Raw files and block devices, whose bytes are the guest's; SEEK_DATA and SEEK_HOLE find the holes."""

from __future__ import annotations

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import CompressedCluster, Losses, Segment
from batchdiff.image_source import ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.units import SECTOR, align_up


class RawLayer:
    """A raw image. As in QEMU, its virtual size is the file's size, rounded up to 512 bytes with zeros."""

    def __init__(self, source: ImageSource, observer: ReadObserver | None = None) -> None:
        self._file = ImageFile(source.path, observer)
        self.path = source.path
        self.fd = self._file.fd
        self._size = self._file.size
        self._has_holes = not self._file.is_block_device
        self.virtual_size = align_up(self._size, SECTOR)

    @property
    def backing(self) -> None:
        """No backing file: a raw image cannot name one."""
        return None

    @property
    def losses(self) -> Losses:
        """No losses: a raw image has no snapshots and no bitmaps."""
        return Losses()

    def read_tables(self) -> None:
        """Do nothing: a raw image has no tables."""

    def inspect(self) -> None:
        """Do nothing: every file is a valid raw image."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """Return segments as :class:`~batchdiff.image.layer.Layer` describes them; none is ever ABSENT."""
        found = []
        at = start
        whole = [(start, self._size)] if start < self._size else []
        runs = self._file.data_runs(start, end) if self._has_holes else whole
        for first, hole in runs:
            if first > at:
                found.append(Segment(at, first, Origin.ZERO, 0, 0))
            # SEEK_HOLE also finds the end of the file; the zeros that complete its last sector count as data.
            at = min(self.virtual_size if hole >= self._size else hole, end)
            found.append(Segment(first, at, Origin.FILE, 0, first))
        if at < end:
            found.append(Segment(at, end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """Return the first offset from ``start`` on that is not in a hole; None if there is none."""
        if not self._has_holes:
            return start if start < self._size else None
        return self._file.next_data(start)

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Read a segment; bytes past the end of the file become zeros."""
        if segment.address + len(buffer) > self._size:
            there = max(self._size - segment.address, 0)
            buffer[there:] = bytes(len(buffer) - there)
            buffer = buffer[:there]
        self._file.fill(buffer, segment.address)

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise an error: no segment of a raw image is COMPRESSED."""
        raise ValueError(f"nothing is compressed in a raw image: {segment}")

    def fingerprint(self) -> Fingerprint:
        """Return the file's current fingerprint."""
        return self._file.fingerprint()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
