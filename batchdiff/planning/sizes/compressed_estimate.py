"""An estimate of a compressed overlay's size, from a sample of clusters that grows until the error is small.

It is reproducible, because the seed is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind, fold, numbers, only
from batchdiff.frozen import frozen
from batchdiff.image.files import ReadObserver, settle
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image_source import ImageSource
from batchdiff.planning.scan.compare import UNIT
from batchdiff.qcow2.cluster_packing import Packer
from batchdiff.qcow2.compression import compress
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS, Geometry
from batchdiff.units import align_up

_FIRST_SAMPLE = 512
_WANTED_ERROR = 0.01
"""As a share of the size (docs/plan-format.md)."""
_CONFIDENCE = 1.96
_BATCH = 64


@frozen
class Sample:
    """The numbers of the clusters of one guest that are to be compressed. ``level``: None for the default."""

    source: ImageSource
    geometry: Geometry
    clusters: tuple[int, ...]
    level: int | None = None


class StoredData(NamedTuple):
    """The size of an overlay's compressed data: in whole clusters of the file, and in whole units on disk."""

    file_bytes: int
    error_bytes: int
    disk_bytes: int


Measure = Callable[[list[Sample]], list[list[int]]]
"""Returns :func:`stored_lengths` of each sample, in the order of the samples."""


@frozen
class SampleJob:
    """The compression of samples; a task is a sample with its number."""

    observer: ReadObserver | None = None

    @contextmanager
    def begin(self) -> Iterator[Callable[[tuple[int, Sample]], tuple[int, list[int]]]]:
        """Yield the function that compresses a sample."""
        yield self._compress

    def describe(self, task: tuple[int, Sample]) -> str:
        """Describe a task, for messages."""
        return f"compressing a sample of {task[1].source.path}"

    def _compress(self, task: tuple[int, Sample]) -> tuple[int, list[int]]:
        number, sample = task
        lengths = stored_lengths(sample, self.observer)
        settle(self.observer)
        return number, lengths


def stored_lengths(sample: Sample, observer: ReadObserver | None = None) -> list[int]:
    """Return the compressed length of each cluster of a sample; 0 if it would be stored uncompressed.

    :raises ImageError: the image cannot be opened or read.
    """
    buffer = ReadBuffer(sample.geometry.cluster_size)
    with open_image(sample.source, observer=observer) as image:
        return [_stored(image, number, sample, buffer) for number in sample.clusters]


def _stored(image: Image, number: int, sample: Sample, buffer: ReadBuffer) -> int:
    geometry = sample.geometry
    data = buffer.load(image, number * geometry.cluster_size, geometry.cluster_size)
    packed = compress(data, geometry.compression_type, sample.level)
    return 0 if packed is None else len(packed)


def stored_data(  # noqa: PLR0913  # options by keyword
    source: ImageSource,
    extents: Extents,
    geometry: Geometry,
    measure: Measure,
    *,
    unit: int = UNIT,
    level: int | None = None,
) -> StoredData:
    """Return the size of an overlay's compressed data on a filesystem with allocation units of ``unit`` bytes.

    The error is 0 if, and only if, the sample includes every cluster.
    """
    clusters = numbers(fold(only(extents, Kind.DATA), geometry.granules))
    count = len(clusters)
    order = np.random.default_rng(0).permutation(count)
    lengths = np.zeros(count, dtype=np.int64)
    cluster_size, done = geometry.cluster_size, 0
    # Narrow refcounts leave gaps that depend on the whole sequence of clusters, so a sample's gaps are not
    # representative.
    first = count if geometry.refcount_bits < DEFAULT_REFCOUNT_BITS else _FIRST_SAMPLE
    while done < count:
        wanted = min(max(done * 2, first), count)
        batch = np.sort(order[done:wanted])
        lengths[batch] = _sampled_lengths(source, clusters[batch], geometry, level, measure)
        done = wanted
        drawn = lengths[np.sort(order[:done])]
        end, on_disk = _packed(drawn, geometry, unit)
        total = end * count / done
        error = _error(np.where(drawn == 0, cluster_size, drawn), count)
        if done < count and error <= _WANTED_ERROR * total:
            # One more cluster for the rounding; an error of 0 would claim that the sample includes every cluster.
            return StoredData(
                align_up(round(total), cluster_size),
                math.ceil(error) + cluster_size,
                align_up(round(on_disk * count / done), unit),
            )
    end, on_disk = _packed(lengths, geometry, unit)
    return StoredData(align_up(end, cluster_size), 0, align_up(on_disk, unit))


def _sampled_lengths(
    source: ImageSource,
    clusters: npt.NDArray[np.int64],
    geometry: Geometry,
    level: int | None,
    measure: Measure,
) -> list[int]:
    samples = [
        Sample(source, geometry, tuple(clusters[at : at + _BATCH].tolist()), level)
        for at in range(0, len(clusters), _BATCH)
    ]
    return [length for lengths in measure(samples) for length in lengths]


def _error(sizes: npt.NDArray[np.int64], count: int) -> float:
    """Return half the width of the 95% interval of the sum of ``count`` sizes.

    ``sizes``: a sample of them, drawn without replacement.
    """
    drawn = len(sizes)
    if drawn == count:
        return 0.0
    share_left = 1 - drawn / count
    return float(_CONFIDENCE * np.std(sizes, ddof=1) / math.sqrt(drawn) * math.sqrt(share_left) * count)


def _packed(lengths: npt.NDArray[np.int64], geometry: Geometry, unit: int) -> tuple[int, int]:
    """Return the bytes up to the end of the stored data, and how many of them are in units that are written to.

    Neither is rounded up, because a sample's rounding would be multiplied.
    """
    cluster_size = geometry.cluster_size
    packer = Packer(0, cluster_size, geometry.most_uses)
    end = unused = filled = 0  # filled: the end of the last compressed cluster
    for length in lengths.tolist():
        offset = packer.place(length or None)
        end = max(end, offset + (length or cluster_size))
        if length:
            unused += _units_left(filled, cluster_size, unit) if offset != filled else 0
            filled = offset + length
    # The units left after the last compressed cluster count as unused only if something is stored after them.
    return end, end - unused - (_units_left(filled, cluster_size, unit) if end > filled else 0)


def _units_left(filled: int, cluster_size: int, unit: int) -> int:
    """Return the bytes of the whole units between an offset and the end of its cluster."""
    return max(align_up(filled, cluster_size) - align_up(filled, unit), 0)
