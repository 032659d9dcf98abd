"""The rule that decides which parts of an image a new image stores, and which stay holes in it.

::

    segments of the image     | FILE                   | ZERO  | COMPR. |
    blocks of its file        | written   | unwritten  |       |        |
    the new image             | all of it | a hole*    | hole  | all    |      * except blocks that are not zeros

Planner and writer must follow one rule, so that an overlay takes the disk space that its plan predicts.

Unwritten blocks read as zeros, but only the filesystem vouches for that, so a writer must read them, and store any
that are not all zeros. Zeros that were written are data.
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
    """The rule for one image, with the unwritten blocks that its files had when this object was created."""

    def __init__(self, image: Image, *, known: ExtentTable | None = None) -> None:
        """Ask the filesystem for these blocks. ``known``: at least those of a raw image, if it was mapped before.

        :raises ImageError: the filesystem reports an error.
        """
        self._unwritten = [Unwritten(layer.fd, layer.path, known=known) for layer in image.layers]

    def parts(self, segment: Segment) -> Iterator[tuple[Segment, ToWrite]]:
        """Yield a segment's parts, ascending, with how much of each is written; none if its origin is ZERO."""
        if segment.origin is Origin.ZERO:
            return
        if segment.origin is not Origin.FILE or self._unwritten[segment.layer].is_nothing:
            yield segment, ToWrite.ALL
            return
        shift, end = segment.start - segment.address, segment.address + segment.end - segment.start
        for start, stop, never in self._unwritten[segment.layer].split(segment.address, end):
            part = segment._replace(start=start + shift, end=stop + shift, address=start)
            yield part, ToWrite.NONZERO if never else ToWrite.ALL
