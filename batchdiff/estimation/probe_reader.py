"""Read probes, compare them with the template, and find their prices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.estimation.frame import ProbeClass
from batchdiff.estimation.pricing import KindsOfProbes, PriceRule, Pricing, data_parts
from batchdiff.extents import Kind, from_kinds
from batchdiff.files.memory import page_aligned
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image.storage.block_ranges import Offsets, overlaps
from batchdiff.image.storage.shared_blocks import SharedExtent, common_ranges, raw_extents, shared_extents
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.compression import compress
from batchdiff.qcow2.entries import Origin
from batchdiff.units import ceil_div

_WORDS_OF_UNIT = UNIT // np.dtype(np.uint64).itemsize


@frozen(eq=False)
class ProbeContents:
    """The contents of some probes.

    ``read``: the bytes read from both images. ``shared``: for each probe, the bytes in blocks that the guest
    shares already and the overlay will share, too. ``lengths``, of shape (probes, clusters): the compressed sizes,
    0 if a cluster is stored uncompressed or not at all; the array has no columns unless the rule is COMPRESSED.
    """

    kinds: KindsOfProbes
    read: npt.NDArray[np.int64]
    prices: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]


class ProbeReader:
    """A reader of probes of one guest."""

    def __init__(self, template: Image, guest: Image, pricing: Pricing, size: int) -> None:
        """Take the images, which the caller closes. ``size``: the bytes of a probe.

        :raises ImageError: the guest cannot be examined.
        """
        self._template, self._guest, self._pricing, self._size = template, guest, pricing, size
        self._buffers = ReadBuffer(size), ReadBuffer(size)
        self._zeros = page_aligned(size)
        self._part = min(pricing.resolution, size)
        self._rule: WriteRule | None = None
        if pricing.rule is PriceRule.WRITTEN:
            self._rule = WriteRule(guest, known=raw_extents(guest))

    def read(self, numbers: npt.NDArray[np.int64], kind: ProbeClass) -> ProbeContents | ImageError:
        """Read probes of one class; return the error if the guest cannot be examined.

        :raises ImageError: the template cannot be examined.
        """
        count = len(numbers)
        kinds = np.zeros((count, self._size // UNIT), dtype=np.uint8)
        read, prices, shared = (np.zeros(count, dtype=np.int64) for _ in range(3))
        clusters = self._size // self._part if self._pricing.compresses else 0
        lengths = np.zeros((count, clusters), dtype=np.int32)
        for row, number in enumerate(numbers.tolist()):
            start = number * self._size
            ours = [] if kind is ProbeClass.ADDED else self._template.segments(start, start + self._size)
            below, of_template = self._load_template(start, ours), _data_bytes(ours)
            placed = shared_extents(self._template, ours) if self._pricing.rule is PriceRule.EQUAL else []
            try:
                segments = self._guest.segments(start, start + self._size)
                data = self._buffers[1].load_segments(self._guest, start, self._size, segments)
                kinds[row], read[row] = self._compare(below, data, start), of_template + _data_bytes(segments)
                if clusters:
                    prices[row], lengths[row] = self._compressed(data, kinds[row])
                elif self._pricing.rule is PriceRule.EQUAL:
                    prices[row] = self._shareable(ours, placed, segments, kinds[row])
                elif self._rule is None:
                    prices[row] = len(self._data_parts(kinds[row])) * self._part
                else:
                    prices[row], shared[row] = self._written(segments, kinds[row], self._rule)
            except ImageError as error:
                return error
        return ProbeContents(kinds, read, prices, shared, lengths)

    def _load_template(self, start: int, segments: list[Segment]) -> memoryview:
        if not segments:
            return self._zeros
        return self._buffers[0].load_segments(self._template, start, self._size, segments)

    def _compare(self, below: memoryview, data: memoryview, start: int) -> npt.NDArray[np.uint8]:
        words = np.frombuffer(data, dtype=np.uint64).reshape(-1, _WORDS_OF_UNIT)
        nonzero = words.any(axis=1)
        differs = (words != np.frombuffer(below, dtype=np.uint64).reshape(-1, _WORDS_OF_UNIT)).any(axis=1)
        kinds = np.full(len(words), Kind.SAME_ZERO, dtype=np.uint8)
        kinds[differs] = Kind.ZERO
        kinds[nonzero] += np.uint8(Kind.SAME)
        kinds[ceil_div(self._guest.virtual_size - start, UNIT) :] = Kind.SAME_ZERO  # past the end of the disk
        return kinds

    def _data_parts(self, kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        return np.flatnonzero(data_parts(kinds[np.newaxis], self._part, self._pricing.geometry))

    def _compressed(self, data: memoryview, kinds: npt.NDArray[np.uint8]) -> tuple[int, npt.NDArray[np.int32]]:
        size, pricing = self._part, self._pricing
        lengths, total = np.zeros(self._size // size, dtype=np.int32), 0
        for number in self._data_parts(kinds).tolist():
            packed = compress(data[number * size : (number + 1) * size], pricing.compression, pricing.level)
            lengths[number] = 0 if packed is None else len(packed)
            total += size if packed is None else len(packed)
        return total, lengths

    def _shareable(
        self,
        ours: list[Segment],
        placed: list[SharedExtent],
        theirs: list[Segment],
        kinds: npt.NDArray[np.uint8],
    ) -> int:
        """Count the equal bytes that both images store as they are, but not in the same blocks."""
        if not ours or not theirs:
            return 0
        equal = from_kinds(np.where(kinds & Kind.ZERO, Kind.SAME_ZERO, Kind.SAME).astype(np.uint8))
        first = theirs[0].start
        runs = first + equal.first * UNIT, np.minimum(first + equal.end * UNIT, self._guest.virtual_size)
        runs = _overlap(_in_file(theirs), _overlap(_in_file(ours), runs))
        common = common_ranges(placed, shared_extents(self._guest, theirs))
        shared = _overlap(common, runs)
        return int((runs[1] - runs[0]).sum() - (shared[1] - shared[0]).sum())

    def _written(self, segments: list[Segment], kinds: npt.NDArray[np.uint8], rule: WriteRule) -> tuple[int, int]:
        """Return the price and the shared bytes of a probe."""
        parts = self._data_parts(kinds)
        if not len(parts):
            return 0, 0
        begins = segments[0].start + parts * self._part
        runs = begins, begins + self._part
        stored = [
            (part.start, part.end)
            for segment in segments
            for part, amount in rule.parts(segment)
            if amount is ToWrite.ALL
        ]
        lows, highs = _overlap(stored, runs)
        shared = 0
        if self._pricing.shares:
            in_file = [segment for segment in segments if segment.origin is Origin.FILE]
            found = [(extent.start, extent.end) for extent in shared_extents(self._guest, in_file)]
            starts, ends = _overlap(found, runs)
            shared = int((ends - starts).sum())
        return _units_touched(lows, highs, self._pricing.unit) * self._pricing.unit, shared


def _in_file(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in segments if segment.origin is Origin.FILE]


def _data_bytes(segments: list[Segment]) -> int:
    return sum(segment.end - segment.start for segment in segments if segment.origin is not Origin.ZERO)


def _overlap(spans: list[tuple[int, int]], runs: tuple[Offsets, Offsets]) -> tuple[Offsets, Offsets]:
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    lows, highs, *_ = overlaps((table[:, 0], table[:, 1]), runs)
    return lows, highs


def _units_touched(lows: Offsets, highs: Offsets, unit: int) -> int:
    """Count the units that ascending, disjoint ranges touch."""
    begins, stops = lows // unit, (highs - 1) // unit
    before = np.concatenate([[-1], stops[:-1]])
    return int((stops - np.maximum(begins, before + 1) + 1).sum()) if len(lows) else 0
