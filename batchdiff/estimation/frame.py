"""The probes of a guest, classified by metadata, so that only those that metadata does not settle are sampled.

::

    template    | data  |  hole  | data  | data  | hole  |
    guest       | data  |  data  | hole  | shared| hole  |
    class       |COMPARED| ADDED |CLEARED|SHARED | ZEROS |      only COMPARED and ADDED must be sampled, and
                                                                CLEARED if the overlay stores zeros as data

Each class is sampled by itself, because its probes resemble each other.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.storage.shared_blocks import BlockRuns, common_ranges, runs_within, shared_extents
from batchdiff.planning.scan.common_blocks import CommonBlocks
from batchdiff.planning.scan.compare import Flags
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.spans import subtract
from batchdiff.planning.scan_all import ranges_with_data
from batchdiff.qcow2.entries import Origin
from batchdiff.units import ceil_div

Pieces = list[tuple[int, int]]
"""Starts and ends of parts of a disk, sorted and disjoint."""


class ProbeClass(enum.IntEnum):
    """The kind of a probe, as metadata shows it."""

    ZEROS = 0
    """Zeros in both images."""
    SHARED = 1
    """The template's own bytes; any other bytes of the probe are zeros in both images."""
    CLEARED = 2
    """Zeros in the guest where the template may have data."""
    ADDED = 3
    """Data in the guest where the template has zeros."""
    COMPARED = 4
    """Data in both images; or the template's own bytes, beside others with data in at least one image."""


@frozen(eq=False)
class Frame:
    """The probes of a guest, as runs of one class.

    ``probe_size`` in bytes; ``lengths`` in probes; ``open_bytes``: the guest's data that metadata does not settle.
    """

    probe_size: int
    lengths: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    open_bytes: int = 0

    @property
    def classes(self) -> npt.NDArray[np.uint8]:
        """The class of each probe."""
        return np.repeat(self.kinds, self.lengths)

    def numbers(self, kind: ProbeClass) -> npt.NDArray[np.int64]:
        """Return the numbers of a class's probes, ascending."""
        return np.flatnonzero(self.classes == kind)

    def count(self, kind: ProbeClass) -> int:
        """Count the probes of a class."""
        return int(self.lengths[self.kinds == kind].sum())


def joined(probe_size: int, classes: npt.NDArray[np.uint8], open_bytes: int = 0) -> Frame:
    """Return the frame of probes with these classes; there must be at least one probe."""
    starts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
    return Frame(probe_size, np.diff(np.append(starts, len(classes))), classes[starts], open_bytes)


def frame_of(template: Image, guest: Image, probe_size: int, *, sharing: bool) -> Frame:
    """Return the frame of a guest. ``probe_size``: a power of two, at most ``RANGE``.

    ``sharing``: the template shares blocks with other files, perhaps with the guest.

    :raises ImageError: an image cannot be read.
    """
    settled = _Settled(template, guest, sharing=sharing)
    classes, open_bytes = np.zeros(ceil_div(guest.virtual_size, probe_size), dtype=np.uint8), 0
    for number in sorted({*ranges_with_data(template), *ranges_with_data(guest)}):
        start, end = number * RANGE, min((number + 1) * RANGE, guest.virtual_size)
        if start < end:
            ours, theirs = template.segments(start, end), guest.segments(start, end)
            known = settled.bytes_in(ours, theirs)
            there = subtract(_data_of(theirs), known)
            open_bytes += sum(stop - begin for begin, stop in there)
            span = slice(start // probe_size, ceil_div(end, probe_size))
            classes[span] = _classes(_data_of(ours), there, known, (start, end, probe_size))
    return joined(probe_size, classes, open_bytes)


def _data_of(segments: list[Segment]) -> Pieces:
    return [(each.start, each.end) for each in segments if each.origin is not Origin.ZERO]


class _Settled:
    """The guest's bytes that metadata shows to be the template's own."""

    def __init__(self, template: Image, guest: Image, *, sharing: bool) -> None:
        self._template, self._guest, self._sharing = template, guest, sharing
        self._is_thin = _rests_on(guest, template)
        self._runs: BlockRuns | None = None
        if sharing and not self._is_thin:
            common = CommonBlocks(template)
            common.add("", guest)
            common.confirm()
            self._runs = common.runs.get("")

    def bytes_in(self, ours: list[Segment], theirs: list[Segment]) -> Pieces:
        if not theirs:
            return []
        if self._is_thin:
            return [(each.start, each.end) for each in theirs if each.layer and each.origin is not Origin.ZERO]
        if self._runs is not None:
            return runs_within(self._runs, theirs[0].start, theirs[-1].end)
        if not self._sharing:
            return []
        return common_ranges(shared_extents(self._template, ours), shared_extents(self._guest, theirs))


def _rests_on(guest: Image, template: Image) -> bool:
    below = (replace(template.source, backing=()), *template.source.backing)
    return guest.source.backing == below and guest.fingerprints()[1:] == template.fingerprints()


def _classes(below: Pieces, there: Pieces, settled: Pieces, place: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Classify the probes at ``place`` (start, end, probe size).

    ``there``: the guest's data that is not settled.
    """
    is_settled = _touched(settled, place)
    is_open = _touched(there, place)
    may_differ = _touched(subtract(below, settled), place)
    is_cleared = may_differ & ~is_open
    classes = np.zeros(len(is_open), dtype=np.uint8)
    classes[is_settled] = ProbeClass.SHARED
    classes[is_cleared] = ProbeClass.CLEARED
    classes[is_open] = ProbeClass.ADDED
    # If a part of a probe is settled, the template has data there, which an overlay may have to repeat.
    classes[is_open & (may_differ | is_settled) | (is_cleared & is_settled)] = ProbeClass.COMPARED
    return classes


def _touched(pieces: Iterable[tuple[int, int]], place: tuple[int, int, int]) -> Flags:
    start, end, probe_size = place
    count = ceil_div(end - start, probe_size)
    table = np.array(list(pieces), dtype=np.int64).reshape(-1, 2).clip(start, end)
    table = table[table[:, 0] < table[:, 1]] - start
    steps = np.zeros(count + 1, dtype=np.int64)
    np.add.at(steps, table[:, 0] // probe_size, 1)
    np.add.at(steps, (table[:, 1] - 1) // probe_size + 1, -1)
    touched: Flags = np.cumsum(steps[:-1]) > 0
    return touched
