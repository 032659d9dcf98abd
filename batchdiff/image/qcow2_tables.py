"""The header and tables of a qcow2 file; empty entries of the L1 table are not kept.

::

    L1 table    | 0 | 0 | A | 0 | 0 | 0 | B | 0 | ...         245,760 entries for 15 TiB, nearly all of them empty
    kept          indices 2, 6       offsets A, B

With clusters of 32 KiB and extended L2, the whole table of such a disk would take almost 2 MiB in every process.

Source: QEMU ``docs/interop/qcow2.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.frozen import frozen
from batchdiff.image.files import ImageFile
from batchdiff.qcow2 import entries
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.header import Header, claimed_cluster_size, parse
from batchdiff.units import KIB, MIB, ceil_div

_HEAD = 64 * KIB
"""Bytes of the first read; the usual cluster size."""

_L1_AT_ONCE = 64 * KIB
"""Entries of an L1 table."""

_TABLES_AT_ONCE = MIB
"""Bytes of L2 tables; a single table may take more."""


@frozen
class L2Tables:
    """L2 tables: their indices in the L1 table, ascending, and their offsets in the file."""

    indices: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]

    def at(self, index: int) -> int:
        """Return a table's offset; 0 if there is none."""
        place = int(np.searchsorted(self.indices, index))
        found = place < len(self.indices) and self.indices[place] == index
        return int(self.offsets[place]) if found else 0

    def since(self, index: int) -> Iterator[tuple[int, int]]:
        """Yield each table's index and offset, from an index on."""
        for place in range(int(np.searchsorted(self.indices, index)), len(self.indices)):
            yield int(self.indices[place]), int(self.offsets[place])


def read_header(file: ImageFile) -> Header:
    """Read and check the header of a qcow2 file.

    :raises ImageError: it is invalid, or cannot be read.
    """
    head = file.read_exactly(min(_HEAD, file.size), 0)
    if (cluster_size := claimed_cluster_size(head)) > _HEAD:
        head = file.read_exactly(min(cluster_size, file.size), 0)
    try:
        return parse(head, file.size)
    except FormatError as error:
        raise error_refused(file.path, error) from error


def read_l2_tables(file: ImageFile, header: Header, *, beyond: bool = False) -> L2Tables:
    """Read the L1 table, as far as the disk reaches.

    ``beyond``: read the rest instead, in which QEMU maps the VM's memory that is saved in a snapshot.

    :raises ImageError: it is invalid, or cannot be read.
    """
    needed = ceil_div(header.virtual_size, header.geometry.l2_coverage)
    begin, end = (needed, header.l1_entries) if beyond else (0, needed)
    indices, words = [np.zeros(0, dtype=np.uint32)], [np.zeros(0, dtype=np.uint64)]
    for first in range(begin, end, _L1_AT_ONCE):
        part = read_words(file, header.l1_offset + first * 8, min(_L1_AT_ONCE, end - first))
        used = np.flatnonzero(part)
        indices.append((used + first).astype(np.uint32))
        words.append(part[used])
    found, table = np.concatenate(indices), np.concatenate(words)
    try:
        offsets = entries.check_l1(table, header.geometry, file.size)
    except FormatError as error:
        raise error_refused(file.path, error) from error
    return L2Tables(found[(table & entries.OFFSET_MASK) != 0], offsets)


def entries_in(
    file: ImageFile, header: Header, tables: npt.NDArray[np.int64]
) -> Iterator[tuple[int, entries.Words]]:
    """Yield the entries of L2 tables, some adjacent tables at a time, with the number of tables before these.

    The order is that of the file. Tables in holes count, but may be left out: a small file can have millions of
    them.

    :raises ImageError: the file cannot be read.
    """
    geometry, at = header.geometry, 0
    cluster, tables = geometry.cluster_size, np.sort(tables)
    most = max(_TABLES_AT_ONCE // cluster, 1)
    while at < len(tables):
        if not file.is_block_device:
            data = file.next_data(int(tables[at]))
            if data is None:
                return
            at += int(np.searchsorted(tables[at:], data - cluster, side="right"))
        ahead = tables[at : at + most]
        if len(ahead):
            adjacent = ahead == ahead[0] + np.arange(len(ahead)) * cluster
            count = len(ahead) if adjacent.all() else int(adjacent.argmin())
            yield at, read_entries(file, geometry, int(ahead[0]), count * geometry.l2_entries)
            at += count


def read_entries(file: ImageFile, geometry: Geometry, offset: int, count: int) -> entries.Words:
    """Read L2 entries; shape (count,), or (count, 2) with extended L2.

    :raises ImageError: the file cannot be read.
    """
    found = read_words(file, offset, count * (geometry.entry_size // 8))
    return found.reshape(-1, 2) if geometry.extended_l2 else found


def read_words(file: ImageFile, offset: int, count: int) -> entries.Words:
    """Read big-endian words of 8 bytes.

    :raises ImageError: the file cannot be read.
    """
    data = file.read_exactly(count * 8, offset)
    return np.frombuffer(data, dtype=">u8").astype(np.uint64)


def error_refused(path: str, error: FormatError) -> ImageError:
    """Return the error to raise for the file at ``path``."""
    return ImageError(f"cannot use {path} as qcow2", path=path, why=str(error), remedy=error.remedy)
