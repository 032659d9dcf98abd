"""An inverted index of the samples of all images; pure.

::

    key (place and content)     images that have it           common(keys[1]): how many keys of image 1 each
    #0  at 0, "aa"              0, 1, 2                       image has; image 0: 2, 1: 3, 2: 1, 3: 0
    #1  at 0, "bb"              3
    #2  at 7, "cc"              0, 1
    #3  at 9, "dd"              1

The index lists no pairs of images, so it grows only with the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from batchdiff.discovery.sample_offsets import SAMPLE, SampleNumbers, levels_of
from batchdiff.discovery.samples import Samples
from batchdiff.sampling.interval import Interval, Probe, exactly, share_of

_NORMAL = 1.96
"""Half the width of a 95% interval, in standard deviations."""


class SampleIndex:
    """An index in which an image is known by its place in ``images``.

    ``keys``, ``heights``: by image, the keys of its samples, and the highest level at which the probe of each is
    chosen.
    """

    def __init__(self, images: Sequence[Samples], probe_bits: int) -> None:
        self._probe_bits = probe_bits
        self.levels = np.array([each.level for each in images], dtype=np.int64)
        lengths = [len(each.hashes) for each in images]
        edges = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *(each.hashes for each in images)])
        found, keys = np.unique(hashes, return_inverse=True)
        self.key_count = len(found)
        self.keys = [keys[start:end] for start, end in pairwise(edges.tolist())]
        # The owners of all samples, sorted by key.
        order = np.argsort(keys, kind="stable")
        self._owners = np.repeat(np.arange(len(images)), lengths)[order]
        self._starts = np.searchsorted(keys[order], np.arange(self.key_count + 1))
        self._numbers = [each.numbers for each in images]
        self._stored = [each.stored for each in images]
        self._probes = [each.numbers >> probe_bits for each in images]
        self.heights = [levels_of(each) for each in self._probes]
        self._counts = _counts(self.heights, int(self.levels.max(initial=0)))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def data_bytes(self) -> npt.NDArray[np.float64]:
        """The estimated bytes of nonzero data of each image, in whole samples."""
        return self._counts[np.arange(len(self)), self.levels] * SAMPLE * 2.0**self.levels

    def common(self, keys: SampleNumbers) -> SampleNumbers:
        """Return how many of these keys each image has."""
        starts, ends = self._starts[keys], self._starts[keys + 1]
        lengths = ends - starts
        skipped = np.repeat(starts - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
        return np.bincount(self._owners[skipped + np.arange(len(skipped))], minlength=len(self))

    def shares(self, template: int) -> npt.NDArray[np.float64]:
        """Return the share of each image's samples that a template has, too, at the higher of the two levels."""
        of = self._counts[np.arange(len(self)), np.maximum(self.levels, self.levels[template])]
        shares: npt.NDArray[np.float64] = self.common(self.keys[template]) / np.maximum(of, 1)
        return shares

    def similarity(self, image: int, template: int) -> Interval:
        """Return the share of an image's samples that a template has, too.

        It is exact if both are sampled at level 0.
        """
        return self._share_of_hits(image, template, np.ones(len(self.keys[image]), dtype=np.int64))

    def changed_bytes(self, image: int, template: int) -> Interval:
        """Estimate how many bytes of an image's data an overlay would store."""
        share = self._share_of_hits(image, template, self._stored[image]).subtracted_from(1)
        return _product(share, self._stored_bytes(image))

    def _stored_bytes(self, image: int) -> Interval:
        """Estimate the bytes that an overlay with all of an image's data would store.

        The error follows from the differences between neighbouring cells.
        """
        cells, number = np.unique(self._probes[image] >> self.levels[image], return_inverse=True)
        values = np.bincount(number, weights=self._stored[image])
        is_adjacent = np.diff(cells) == 1
        # Cells without data are not listed; beside such a cell, the difference is the whole value.
        squares = float((np.diff(values) ** 2)[is_adjacent].sum())
        squares += float((values[:-1] ** 2 + values[1:] ** 2)[~is_adjacent].sum())
        scale = 2.0 ** float(self.levels[image])
        error = _NORMAL * scale * ((1 - 1 / scale) * squares / 2) ** 0.5
        total = float(values.sum()) * scale
        return Interval(total, max(total - error, float(values.sum())), total + error)

    def changed_places(self, image: int, template: int) -> SampleNumbers | None:
        """Return the numbers of all samples in which two images differ; None if not all their data was read."""
        if self.levels[image] or self.levels[template]:
            return None
        changed = self._numbers[image][~np.isin(self.keys[image], self.keys[template])]
        return np.union1d(changed, np.setdiff1d(self._numbers[template], self._numbers[image]))

    def _share_of_hits(self, image: int, template: int, weights: SampleNumbers) -> Interval:
        level = int(max(self.levels[image], self.levels[template]))
        taken = self.heights[image] >= level
        weights = weights[taken]
        hits = np.isin(self.keys[image][taken], self.keys[template]) * weights
        if not level:
            return exactly(float(hits.sum() / weights.sum()) if weights.any() else 0.0)
        _, number = np.unique(self._probes[image][taken], return_inverse=True)
        of = np.bincount(number, weights=weights)
        found = np.bincount(number, weights=hits)
        probes = [Probe(float(hit), float(count)) for hit, count in zip(found, of, strict=True)]
        return share_of(probes, population=len(probes) << level)


def _product(one: Interval, other: Interval) -> Interval:
    """Multiply independent values: on each side of the estimate, the squares of the relative errors add up."""
    estimate = one.estimate * other.estimate
    below = math.hypot((one.estimate - one.low) * other.estimate, (other.estimate - other.low) * one.estimate)
    above = math.hypot((one.high - one.estimate) * other.estimate, (other.high - other.estimate) * one.estimate)
    return Interval(estimate, max(estimate - below, 0.0), estimate + above)


def _counts(heights: Sequence[SampleNumbers], highest: int) -> SampleNumbers:
    """Return how many samples of each image (row) have at least each height (column)."""
    highest = max([highest, *(int(each.max(initial=0)) for each in heights)])
    counts = np.zeros((len(heights), highest + 1), dtype=np.int64)
    for row, each in enumerate(heights):
        exact = np.bincount(each, minlength=highest + 1)
        counts[row] = exact[::-1].cumsum()[::-1]
    return counts
