"""Refcounts: one number for each cluster of the file, in blocks that the refcount table lists.

::

    refcount table    | offset of block 0 | offset of block 1 | 0 | ...  8 bytes each
    refcount block    | cluster 0 | cluster 1 | ...                      1 to 64 bits each; a block fills a cluster

Source: QEMU ``docs/interop/qcow2.txt``, "Host cluster management"; ``get_refcount_ro0()`` in its
``block/qcow2-refcount.c``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.qcow2.entries import Words
from batchdiff.qcow2.faults import FormatError
from batchdiff.units import ceil_div

Numbers = npt.NDArray[np.int64]

_REPAIR = "Repair a copy of it with `qemu-img check -r all`, and use the copy if a VM starts on it."


class Refcounts(NamedTuple):
    """The refcounts of a file.

    ``order``: the base-2 logarithm of their width in bits. ``read`` takes length and offset.
    """

    table: Words
    order: int
    cluster_size: int
    read: Callable[[int, int], bytes]

    @property
    def in_block(self) -> int:
        """Refcounts in a block."""
        return (self.cluster_size * 8) >> self.order


def check_refcounts(refcounts: Refcounts, clusters: Numbers, references: Numbers) -> None:
    """Check that no cluster has more references than its refcount allows.

    Fewer are allowed: clusters can be leaked, and the references of snapshots are not counted.

    ``clusters``: their numbers, ascending; ``references``: the number of references to each.

    :raises FormatError: a cluster has more references than its refcount allows.
    """
    for first, last, block in _by_block(refcounts, clusters):
        found = _in_block(refcounts, block, clusters[first:last] % refcounts.in_block)
        wrong = np.flatnonzero(found < references[first:last].astype(np.uint64))
        if len(wrong):
            at = int(clusters[first + wrong[0]]) * refcounts.cluster_size
            count, used = int(found[wrong[0]]), int(references[first + wrong[0]])
            raise FormatError(
                f"the cluster at {at} is in use, but its refcount is 0"
                if count == 0
                else f"the cluster at {at} is used {used} times, but its refcount is {count}",
                remedy=_REPAIR,
            )


def _by_block(refcounts: Refcounts, clusters: Numbers) -> Iterator[tuple[int, int, int]]:
    """Yield the start and end index of each block's clusters, and the block's offset, or 0 if it is missing."""
    blocks, table = clusters // refcounts.in_block, refcounts.table
    edges = [0, *(np.flatnonzero(blocks[1:] != blocks[:-1]) + 1).tolist(), len(blocks)]
    for first, last in itertools.pairwise(edges):
        if first < last:
            index = int(blocks[first])
            yield first, last, int(table[index]) if index < len(table) else 0


def _in_block(refcounts: Refcounts, block: int, places: Numbers) -> Words:
    """``block``: the offset of the block, or 0 if it is missing; ``places``: ascending indices in it."""
    if block == 0:
        return np.zeros(len(places), dtype=np.uint64)
    order, low, high = refcounts.order, int(places[0]), int(places[-1]) + 1
    if order < 3:
        # A byte holds several refcounts, the first one in its lowest bits.
        each = 8 >> order
        start = low // each
        data = np.frombuffer(refcounts.read(ceil_div(high, each) - start, block + start), dtype=np.uint8)
        shifts = ((places % each) << order).astype(np.uint8)
        return ((data[places // each - start] >> shifts) & np.uint8((1 << (1 << order)) - 1)).astype(np.uint64)
    width = 1 << (order - 3)
    data = np.frombuffer(refcounts.read((high - low) * width, block + low * width), dtype=f">u{width}")
    return data[places - low].astype(np.uint64)
