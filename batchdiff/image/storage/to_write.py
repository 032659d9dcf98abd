"""The rule that decides which parts of an image a new image stores, and which stay holes in it.

::

    segments of the image     | FILE                   | ZERO  | COMPR. |
    blocks of its file        | written   | unwritten  |       |        |
    the new image             | all of it | a hole*    | hole  | all    |      * except blocks that are not zeros

A plan predicts the disk space of an overlay by this rule, and the writer follows it, so both agree to the byte.

Unwritten blocks are preallocated and have never been written to, so they read as zeros; but once they have been
read, SEEK_DATA may report them as data. Only the filesystem vouches for these zeros, so the writer reads them, and
stores any block that is not zeros after all. Zeros that were written are data.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.storage.preallocated import Unwritten
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.qcow2.entries import Origin


class ToWrite(enum.Enum):
    """The amount of a part that is written to the new image."""

    ALL = "the whole part is written"
    NONZERO = "only blocks that are not zeros are written, and a plan counts no bytes of the part"


class WriteRule:
    """The rule for one image, with the unwritten blocks of its chain's files as they are now."""

    def __init__(self, image: Image, *, known: ExtentTable | None = None) -> None:
        """Ask the filesystem for the unwritten blocks. ``known``: its answer, if a raw image was mapped before.

        :raises ImageError: the filesystem reports an error.
        """
        self._unwritten = [Unwritten(layer.fd, layer.path, known=known) for layer in image.layers]

    def parts(self, segment: Segment) -> Iterator[tuple[Segment, ToWrite]]:
        """Yield the parts of a segment that are written, in ascending order; everything else stays a hole."""
        if segment.origin is Origin.ZERO:
            return
        if segment.origin is not Origin.FILE or self._unwritten[segment.layer].is_nothing:
            yield segment, ToWrite.ALL
            return
        shift, end = segment.start - segment.address, segment.address + segment.end - segment.start
        for start, stop, never in self._unwritten[segment.layer].split(segment.address, end):
            part = segment._replace(start=start + shift, end=stop + shift, address=start)
            yield part, ToWrite.NONZERO if never else ToWrite.ALL
