"""The bytes that a plan would read, and whether to make a plan instead of sampling further.

::

    template   once for each batch of guests that fits the limit on open files; if the template shares
               blocks, only where guests have blocks of their own
    guests     their data that metadata does not settle, once
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from batchdiff.image.image import Image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.scan.exports import files_to_open
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.reopening import batches
from batchdiff.planning.scan_all import ranges_with_data
from batchdiff.qcow2.entries import Origin


def times_read(guests: Mapping[str, PlannedImage], exported: Collection[str], files: int) -> int:
    """Return how many times a plan reads the template.

    ``exported``: the guests that QEMU must export; ``files``: how many files of guests may be open.
    """
    return sum(1 for _ in batches(list(guests), files_to_open(guests, exported, files), files))


def data_bytes(image: Image) -> int:
    """Count the bytes of an image that are not known to be zeros."""
    return sum(
        segment.end - segment.start
        for number in ranges_with_data(image)
        for segment in image.segments(number * RANGE, (number + 1) * RANGE)
        if segment.origin is not Origin.ZERO
    )


def plan_reads_less(sampled: int, left: int, whole: int, *, exact: bool = False) -> bool:
    """Return True if it is better to make a plan, which reads ``whole`` bytes, than to read further samples.

    ``sampled``: the bytes of all samples after the next round; ``left``: the bytes that would complete all
    samples. ``exact``: no error is accepted. Otherwise, sampling continues for longer, because one more round is
    usually enough, and a plan would read the sampled bytes again.
    """
    return left > whole and (exact or 3 * sampled > 2 * whole)
