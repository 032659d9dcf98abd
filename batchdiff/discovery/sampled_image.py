"""The result of examining a file; pure."""

from __future__ import annotations

from typing import NamedTuple

from batchdiff.discovery.exclusion import Exclusion
from batchdiff.discovery.samples import Samples
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageSource


@frozen
class SampledImage:
    """An image and its samples.

    ``reclaimable``: the bytes that deleting its files would free; ``exactness``: that of ``reclaimable``.
    ``by_content``: only its content shows that it is not raw. ``not_a_guest``: why it can only be a template; may
    be empty. ``snapshots``, ``bitmaps``: how many its conversion would lose.
    """

    source: ImageSource
    virtual_size: int
    allocated: int
    reclaimable: int
    modified_ns: int
    read_only: bool
    samples: Samples
    by_content: bool = False
    in_use: bool = False
    not_a_guest: str = ""
    is_device: bool = False
    snapshots: int = 0
    bitmaps: int = 0
    exactness: Exactness = Exactness.EXACT

    @property
    def path(self) -> str:
        """Its absolute path."""
        return self.source.path

    @property
    def losses(self) -> str:
        """The snapshots and bitmaps, in words; empty if there are none."""
        counts = ((self.snapshots, "snapshot"), (self.bitmaps, "bitmap"))
        return " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts if count)


@frozen
class ExistingOverlay:
    """An image with a backing file. ``backing``: the path of that file."""

    path: str
    backing: str


Examined = SampledImage | ExistingOverlay | Exclusion


class Sampling(NamedTuple):
    """The result for a file, and the reads for its samples."""

    examined: Examined
    reads: int
    read_bytes: int
