"""A buffer that is reused for many reads of an image."""

from __future__ import annotations

from batchdiff.files.memory import address_of, page_aligned, same_bytes
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment


class ReadBuffer:
    """Memory for up to ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._view = page_aligned(size)
        self._address = address_of(self._view)

    def load(self, image: Image, start: int, length: int) -> memoryview:
        """Return bytes of the disk, zeros past its end; valid until the buffer is filled again.

        :raises ImageError: the image cannot be read.
        """
        return self.load_segments(image, start, length, image.segments(start, start + length))

    def load_segments(self, image: Image, start: int, length: int, segments: list[Segment]) -> memoryview:
        """Return the same as :meth:`load`, given the image's segments for these bytes.

        :raises ImageError: the image cannot be read.
        """
        view = self._view[:length]
        image.fill(view, start, segments)
        return view

    def equals(self, other: ReadBuffer, length: int) -> bool:
        """Return whether the first ``length`` bytes of two buffers are equal."""
        return same_bytes(self._address, other._address, length)
