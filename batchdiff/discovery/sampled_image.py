"""What is known about an examined file: its samples, its backing file, or why it is left out; pure."""

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

    ``by_content``: its content alone shows its format. ``allocated``: the bytes that it takes on disk;
    ``reclaimable``: those that deleting it would free; ``exactness``: how exact that number is. ``not_a_guest``:
    why it can be a template, but not a guest; empty if it can be both. ``in_use``: the reason is that the image
    is in use. ``is_device``: it is a block device. ``snapshots``, ``bitmaps``: how many of them its conversion
    would lose.
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
        """The losses of its conversion in words; empty if there are none."""
        counts = ((self.snapshots, "snapshot"), (self.bitmaps, "bitmap"))
        return " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts if count)


@frozen
class ExistingOverlay:
    """An image that already has a backing file. ``backing``: the absolute path to which its header refers."""

    path: str
    backing: str


Examined = SampledImage | ExistingOverlay | Exclusion


class Sampling(NamedTuple):
    """The result for a file, and what was read for its samples, even if they turned out to be of no use."""

    examined: Examined
    reads: int
    read_bytes: int
