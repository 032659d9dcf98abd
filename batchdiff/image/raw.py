"""Raw files and block devices: the guest's bytes as they are; SEEK_DATA and SEEK_HOLE find the holes."""

from __future__ import annotations

import os

from batchdiff.image import files
from batchdiff.image.contract import Segment
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.qcow2.entries import Origin
from batchdiff.units import SECTOR, align_up


class RawLayer:
    """A raw image. Its virtual size is the file's, rounded up to 512 bytes with zeros as QEMU shows it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = files.open_image_file(path)
        self._size = files.content_size(self.fd)
        self._has_holes = not files.is_block_device(self.fd)
        self.virtual_size = align_up(self._size, SECTOR)

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.contract.Layer`; nothing is ever ABSENT."""
        found = []
        at = start
        while at < end:
            data = self.next_data(at)
            data = end if data is None else min(data, end)
            if data > at:
                found.append(Segment(at, data, Origin.ZERO, 0, 0))
            if data < end:
                at = min(self._next_hole(data), end)
                found.append(Segment(data, at, Origin.FILE, 0, data))
            else:
                at = end
        return found

    def next_data(self, start: int) -> int | None:
        """The first offset from ``start`` on that is in no hole."""
        if not self._has_holes:
            return start if start < self._size else None
        return files.seek(self.fd, start, os.SEEK_DATA, self.path)

    def _next_hole(self, start: int) -> int:
        if not self._has_holes:
            return self.virtual_size
        hole = files.seek(self.fd, start, os.SEEK_HOLE, self.path)
        # The end of the file counts as a hole; the bytes up to the full sector are read with the rest.
        return self.virtual_size if hole is None or hole >= self._size else hole

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Reads; what is past the end of the file becomes zeros."""
        there = max(min(len(buffer), self._size - segment.address), 0)
        if there < len(buffer):
            buffer[there:] = bytes(len(buffer) - there)
            buffer = buffer[:there]
        files.fill_from(self.fd, buffer, segment.address, self.path)

    def fingerprint(self) -> Fingerprint:
        """The file's fingerprint now."""
        return files.identify(self.fd)

    def close(self) -> None:
        """Closes the file."""
        os.close(self.fd)
