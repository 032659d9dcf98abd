"""The state of one guest that apply has converted, or restore has given back, for the report of its plan."""

from __future__ import annotations

from typing import NamedTuple

from batchdiff.applying.journal.records import Fate


class Conversion(NamedTuple):
    """What became of a converted guest; sizes in bytes.

    ``fate``: its original's; ``aside``: the path of that in quarantine. ``overlay_bytes``: the length of the
    overlay with its data file when it was published; ``overlay_disk_bytes``: what these take on disk now, None if
    one is missing or cannot be opened. ``used``: it has been written to since. ``came_back_bytes``: by how much
    less the guest takes on disk than before, once its original is gone; 0 as long as that exists.
    ``dependents``: the images that depend on its kept original, in words.
    """

    fate: Fate
    overlay_bytes: int
    overlay_disk_bytes: int | None
    used: bool
    came_back_bytes: int
    aside: str | None = None
    dependents: tuple[str, ...] = ()


class OlderOriginal(NamedTuple):
    """An original that is still in quarantine, although restore gave its guest a rebuilt image.

    ``disk_bytes``: the space that it takes, None if it cannot be opened.
    """

    path: str
    disk_bytes: int | None
