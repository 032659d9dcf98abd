"""References to the clusters of a file, counted from its tables and compared with its refcounts.

::

    L1 table, L2 tables, ...    numbers of their clusters     0 1 3         each is used once, and by nothing else
    entries of the L2 tables    numbers that they name        5 6 7 7 9     about a million at a time, sorted
    refcounts                   of these clusters             1 1 1   0     7 is used twice, 9 is free: refused

The L2 tables and the data of snapshots, and the data of bitmaps, are not counted: QEMU does not need them to read
the disk.

Source: QEMU ``docs/interop/qcow2.txt``; ``check_refcounts_l2()`` in its ``block/qcow2-refcount.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from batchdiff.qcow2.entries import COMPRESSED, OFFSET_MASK, Words, check_l2
from batchdiff.qcow2.faults import FormatError, require
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.refcounts import Numbers, Refcounts, check_refcounts
from batchdiff.units import ceil_div

_COUNTED_AT_ONCE = 1 << 20
"""References to sort at a time, to limit memory use."""

_IN_BATCH = 16 << 10

SNAPSHOT_TABLE = "the snapshot table"

_BUCKETS = 12
"""The base-2 logarithm of the maximum number of buckets."""

Entries = Callable[[], Iterator[Words]]
"""Returns a new iterator over the entries of all L2 tables, some tables at a time."""


class Table(NamedTuple):
    """Metadata of one kind. ``length``: bytes of each table; ``name``: with an article."""

    offsets: Numbers
    length: int
    name: str


class _Metadata(NamedTuple):
    """The clusters of all metadata, ascending, and for each the index of its :class:`Table`."""

    clusters: Numbers
    kinds: Numbers


def table_at(offset: int, length: int, name: str) -> Table:
    """Return a :class:`Table` with a single offset."""
    return Table(np.array([offset], dtype=np.int64), length, name)


def metadata_of(header: Header, blocks: Numbers, l2_tables: Numbers) -> list[Table]:
    """Return the header, the parts that it names, the refcount blocks and the L2 tables."""
    cluster = header.geometry.cluster_size
    return [
        *(table_at(offset, length, f"the {name}") for offset, length, name in header.tables()),
        Table(blocks, cluster, "a refcount block"),
        Table(l2_tables, cluster, "an L2 table"),
    ]


def require_apart(metadata: list[Table], cluster: int) -> None:
    """Raise :class:`FormatError` if two tables share a cluster."""
    _metadata_clusters(metadata, cluster)


def check_references(
    entries: Entries, metadata: list[Table], refcounts: Refcounts, *, geometry: Geometry, size: int
) -> None:
    """Check every entry of every L2 table, and all references to clusters.

    ``size``: bytes of the file.

    :raises FormatError: an entry, a reference or a refcount is invalid.
    """
    cluster = geometry.cluster_size
    used = _metadata_clusters(metadata, cluster)
    check_refcounts(refcounts, used.clusters, np.ones_like(used.clusters))
    for found in _sorted_references(entries, geometry, size):
        first = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]])[: len(found)])
        numbers = found[first]
        _require_not_metadata(numbers, used, metadata, cluster)
        check_refcounts(refcounts, numbers, np.diff(first, append=len(found)))


def referenced_clusters(words: Words, geometry: Geometry) -> Numbers:
    """Return the numbers of the clusters that L2 entries name, unsorted, with repetitions."""
    entry = words[:, 0] if geometry.extended_l2 else words
    packed = (entry & COMPRESSED) != 0
    bits = geometry.cluster_bits
    if not packed.any():
        return _named(entry, bits)
    # A compressed cluster takes whole sectors, in up to three clusters of the file.
    offset_bits = np.uint64(62 - (bits - 8))
    descriptor = entry[packed] & np.uint64((1 << 62) - 1)
    offset = (descriptor & ((np.uint64(1) << offset_bits) - np.uint64(1))).astype(np.int64)
    first, last = offset >> bits, ((offset // 512 + (descriptor >> offset_bits).astype(np.int64)) * 512) >> bits
    return np.concatenate(
        [_named(entry[~packed], bits), first, *(first[last >= first + more] + more for more in (1, 2))]
    )


def _named(entry: Words, bits: int) -> Numbers:
    host: Numbers = ((entry & OFFSET_MASK) >> np.uint64(bits)).astype(np.int64)
    used: Numbers = host[host != 0]
    return used


def _metadata_clusters(metadata: list[Table], cluster: int) -> _Metadata:
    """Return the clusters of all tables; raise :class:`FormatError` if two tables share a cluster."""
    numbers, kinds = [], []
    for kind, (offsets, length, _) in enumerate(metadata):
        count = ceil_div(length, cluster)
        found = (offsets[:, None] // cluster + np.arange(count)).reshape(-1)
        numbers.append(found)
        kinds.append(np.full(len(found), kind))
    clusters, kind_of = np.concatenate(numbers), np.concatenate(kinds)
    order = np.argsort(clusters, kind="stable")
    clusters, kind_of = clusters[order], kind_of[order]
    twice = np.flatnonzero(clusters[1:] == clusters[:-1])
    if len(twice):
        one, other = (metadata[int(kind_of[twice[0] + step])].name for step in (0, 1))
        beside = "another one" if one == other else one
        raise FormatError(f"{other} overlaps {beside}, at {int(clusters[twice[0]]) * cluster}")
    return _Metadata(clusters, kind_of)


def _require_not_metadata(numbers: Numbers, used: _Metadata, metadata: list[Table], cluster: int) -> None:
    at = np.searchsorted(used.clusters, numbers)
    hit = np.flatnonzero(used.clusters[np.minimum(at, len(used.clusters) - 1)] == numbers)
    if len(hit):
        name = metadata[int(used.kinds[at[hit[0]]])].name
        raise FormatError(f"a data cluster overlaps {name}, at {int(numbers[hit[0]]) * cluster}")


def check_entries(
    entries: Entries, geometry: Geometry, size: int, found: Callable[[Words], None] = lambda _: None
) -> None:
    """Check every entry of every L2 table; call ``found`` with each checked batch. ``size``: bytes of the file.

    :raises FormatError: an entry is invalid, or the tables map too much.
    """
    mapped = 0
    for words in _batches(entries):
        mapped += check_l2(words, geometry, size)
        # A bomb maps many guest clusters to one file cluster. The file's last cluster may be cut short.
        if mapped > size + geometry.cluster_size:
            raise FormatError(f"its tables map more bytes than the file has ({size})")
        found(words)


def _sorted_references(entries: Entries, geometry: Geometry, size: int) -> Iterator[Numbers]:
    """Check every entry, then yield all references, ascending, some at a time to limit memory use."""
    clusters = ceil_div(size, geometry.cluster_size)
    shift = max(clusters.bit_length() - _BUCKETS, 0)
    buckets = np.zeros((clusters >> shift) + 1, dtype=np.int64)
    kept: list[Numbers] = []

    def count(words: Words) -> None:
        numbers = referenced_clusters(words, geometry)
        # The last sectors of a compressed cluster may lie in the first cluster past the end of the file.
        require(not (numbers > clusters).any(), "a compressed cluster ends past the end of the file")
        numbers = numbers[numbers < clusters]
        nonlocal buckets
        buckets += np.bincount(numbers >> shift, minlength=len(buckets))
        kept.append(numbers)
        if buckets.sum() > _COUNTED_AT_ONCE:
            kept.clear()

    check_entries(entries, geometry, size, count)
    if buckets.sum() <= _COUNTED_AT_ONCE:
        yield _sorted([*kept, np.zeros(0, dtype=np.int64)])
        return
    for low, high in _parts(buckets):
        first, end = low << shift, min(high << shift, clusters)
        parts = (referenced_clusters(words, geometry) for words in _batches(entries))
        yield _sorted([found[(found >= first) & (found < end)] for found in parts])


def _batches(entries: Entries) -> Iterator[Words]:
    """Join the entries of several tables: small clusters have small tables, with which numpy is slow."""
    kept: list[Words] = []
    count = 0
    for words in entries():
        kept.append(words)
        count += len(words)
        if count >= _IN_BATCH:
            yield np.concatenate(kept)
            kept, count = [], 0
    if kept:
        yield np.concatenate(kept)


def _sorted(found: list[Numbers]) -> Numbers:
    # Most files were written in order. For their references, a stable sort is faster than numpy's default.
    joined = np.concatenate(found)
    joined.sort(kind="stable")
    return joined


def _parts(buckets: Numbers) -> Iterator[tuple[int, int]]:
    """Yield the start and end index of buckets to sort together; a single bucket may exceed the limit."""
    low = total = 0
    for index, count in enumerate(buckets.tolist()):
        if total and total + count > _COUNTED_AT_ONCE:
            yield low, index
            low, total = index, 0
        total += count
    yield low, len(buckets)
