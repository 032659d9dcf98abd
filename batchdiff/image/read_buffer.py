"""One buffer for many reads of any image: what reads all of an image allocates nothing on its way."""

from __future__ import annotations

from batchdiff.image.contract import Segment
from batchdiff.image.image import Image
from batchdiff.image.memory import address_of, page_aligned, same_bytes


class ReadBuffer:
    """Memory for up to ``size`` bytes of any image, one piece after the other."""

    def __init__(self, size: int) -> None:
        self._view = page_aligned(size)
        self._address = address_of(self._view)

    def load(self, image: Image, start: int, length: int) -> memoryview:
        """Return ``length`` guest bytes from ``start`` on, past the virtual size zeros; valid until the next call.

        :raises ImageError: the image cannot be read.
        """
        return self.load_segments(image, start, length, image.segments(start, start + length))

    def load_segments(self, image: Image, start: int, length: int, segments: list[Segment]) -> memoryview:
        """Do the same if the image's segments in these bytes are known.

        :raises ImageError: the image cannot be read.
        """
        view = self._view[:length]
        image.fill(view, start, segments)
        return view

    def equals(self, other: ReadBuffer, length: int) -> bool:
        """Compare the first ``length`` bytes of two buffers."""
        return same_bytes(self._address, other._address, length)
