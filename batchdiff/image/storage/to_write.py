"""The rule for which parts of an image a new image stores, and which stay holes.

::

    segments of the image     | FILE                   | ZERO  | COMPR. |
    blocks of its file        | written   | unwritten  |       |        |
    the new image             | all of it | a hole*    | hole  | all    |      * except blocks that are not zeros

Planner and writer share this rule, so that an overlay takes the disk space that its plan predicts.

Only the filesystem vouches that unwritten blocks are zeros, so a writer must read them and store any that are not.
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
    """How much of a part is written."""

    ALL = "the whole part is written"
    NONZERO = "only blocks that are not zeros are written, and a plan counts no bytes of the part"


class WriteRule:
    """The rule for one image, with the blocks that are unwritten when the rule is created."""

    def __init__(self, image: Image, *, known: ExtentTable | None = None) -> None:
        """Ask the filesystem for the unwritten blocks. ``known``: at least those of a raw image, if found before.

        :raises ImageError: the filesystem reports an error.
        """
        self._unwritten = [Unwritten(layer.fd, layer.path, known=known) for layer in image.layers]

    def parts(self, segment: Segment) -> Iterator[tuple[Segment, ToWrite]]:
        """Yield a segment's parts in ascending order; none if its origin is ZERO."""
        if segment.origin is Origin.ZERO:
            return
        if segment.origin is not Origin.FILE or self._unwritten[segment.layer].is_nothing:
            yield segment, ToWrite.ALL
            return
        shift, end = segment.start - segment.address, segment.address + segment.end - segment.start
        for start, stop, never in self._unwritten[segment.layer].split(segment.address, end):
            part = segment._replace(start=start + shift, end=stop + shift, address=start)
            yield part, ToWrite.NONZERO if never else ToWrite.ALL
