"""Raw files and block devices, whose bytes are the guest's; SEEK_DATA and SEEK_HOLE find the holes."""

from __future__ import annotations

import os

from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image import files
from batchdiff.image.layer import Losses, Packed, Segment
from batchdiff.qcow2.entries import Origin
from batchdiff.units import SECTOR, align_up


class RawLayer:
    """A raw image. As in QEMU, its virtual size is the file's size, rounded up to 512 bytes with zeros."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = files.open_image_file(path)
        self._size = files.content_size(self.fd)
        self._has_holes = not files.is_block_device(self.fd)
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
        runs = files.data_runs(self.fd, start, end, self.path) if self._has_holes else whole
        for first, hole in runs:
            if first > at:
                found.append(Segment(at, first, Origin.ZERO, 0, 0))
            # SEEK_HOLE also finds the end of the file; the zeros up to the full sector belong to the data before.
            at = min(self.virtual_size if hole >= self._size else hole, end)
            found.append(Segment(first, at, Origin.FILE, 0, first))
        if at < end:
            found.append(Segment(at, end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """Return the first offset from ``start`` on that is not in a hole; None if there is none."""
        if not self._has_holes:
            return start if start < self._size else None
        return files.seek(self.fd, start, os.SEEK_DATA, self.path)

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Read a segment; bytes past the end of the file become zeros."""
        if segment.address + len(buffer) > self._size:
            there = max(self._size - segment.address, 0)
            buffer[there:] = bytes(len(buffer) - there)
            buffer = buffer[:there]
        files.fill_from(self.fd, buffer, segment.address, self.path)

    def packed(self, segment: Segment) -> Packed:
        """Raise an error: no segment of a raw image is PACKED."""
        raise ValueError(f"nothing is compressed in a raw image: {segment}")

    def fingerprint(self) -> Fingerprint:
        """Return the file's present fingerprint."""
        return files.identify(self.fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
