"""Table entries: to granules and back; the rules against a plain model of the specification."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.qcow2 import entries
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import Geometry

PLAIN, OLD, EXTENDED = Geometry(65536), Geometry(65536, zero_flag=False), Geometry(65536, extended_l2=True)
COPIED, COMPRESSED = 1 << 63, 1 << 62
AT = 5 * 65536
FILE_SIZE = 100 * 65536
PAST = f"{{}} at {FILE_SIZE} lies past the end of the file ({FILE_SIZE} bytes), which is truncated or damaged"


def words(*values):
    return np.array(values, dtype=np.uint64)


@given(st.integers(9, 21), st.data())
def test_a_compressed_cluster_is_found_where_it_was_put(bits, data):
    geometry = Geometry(1 << bits)
    offset_bits = 62 - (bits - 8)
    offset = data.draw(st.integers(geometry.cluster_size, min((1 << offset_bits) - 1, 1 << 55)))
    length = data.draw(st.integers(1, geometry.cluster_size))
    entry = entries.compressed_entry(offset, length, geometry)
    assert entry >> 62 == 1
    found, most = entries.compressed_extent(entry & (COMPRESSED - 1), geometry)
    assert found == offset
    # It ends at the end of a sector: the last one that the data touches.
    assert length <= most < length + 512
    assert (found + most) % 512 == 0


@given(st.integers(9, 21), st.data())
def test_granules_keep_a_compressed_clusters_descriptor(bits, data):
    geometry = Geometry(1 << bits, extended_l2=bits >= 14 and data.draw(st.booleans()))
    offset = data.draw(st.integers(geometry.cluster_size, 1 << 40))
    entry = entries.compressed_entry(offset, data.draw(st.integers(1, geometry.cluster_size)), geometry)
    table = words([entry, 0]).reshape(1, 2) if geometry.extended_l2 else words(entry)
    origin, address = entries.granules(table, geometry)
    assert origin.tolist() == [Origin.COMPRESSED] * geometry.granules
    assert {entries.compressed_extent(int(each), geometry)[0] for each in address} == {offset}


@pytest.mark.parametrize(
    ("geometry", "entry", "expected"),
    [
        pytest.param(PLAIN, 0, (Origin.ABSENT, 0), id="unallocated"),
        pytest.param(PLAIN, AT, (Origin.FILE, AT), id="data"),
        pytest.param(PLAIN, COPIED | AT, (Origin.FILE, AT), id="data-copied"),
        pytest.param(PLAIN, 1, (Origin.ZERO, 0), id="zero"),
        pytest.param(PLAIN, COPIED | AT | 1, (Origin.ZERO, 0), id="preallocated-zero"),
        pytest.param(PLAIN, COMPRESSED | 77777, (Origin.COMPRESSED, 77777), id="compressed"),
        pytest.param(PLAIN, COMPRESSED | 77777 | 1, (Origin.COMPRESSED, 77777), id="compressed-at-an-odd-byte"),
        pytest.param(OLD, AT, (Origin.FILE, AT), id="version-2-data"),
        pytest.param(PLAIN, (1 << 56) - 65536, (Origin.FILE, (1 << 56) - 65536), id="furthest"),
    ],
)
def test_granules_of_one_entry(geometry, entry, expected):
    origin, address = entries.granules(words(entry), geometry)
    assert (origin.tolist(), address.tolist()) == ([expected[0]], [expected[1]])


@given(st.lists(st.sampled_from([Origin.ABSENT, Origin.ZERO, Origin.FILE]), min_size=32, max_size=32))
def test_granules_of_subclusters(kinds):
    bitmap = sum(1 << n for n, kind in enumerate(kinds) if kind is Origin.FILE)
    bitmap |= sum(1 << n + 32 for n, kind in enumerate(kinds) if kind is Origin.ZERO)
    table = words(COPIED | AT, bitmap).reshape(1, 2)
    assert entries.check_l2(table, EXTENDED, FILE_SIZE) == 65536
    origin, address = entries.granules(table, EXTENDED)
    assert origin.tolist() == kinds
    assert address.tolist() == [AT + n * 2048 if kind is Origin.FILE else 0 for n, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("geometry", "entry", "message"),
    [
        pytest.param(PLAIN, AT + 512, "a data cluster is not aligned to the cluster size", id="misaligned"),
        pytest.param(PLAIN, 512, "a data cluster is not aligned to the cluster size", id="cluster-0"),
        pytest.param(PLAIN, FILE_SIZE, PAST.format("a data cluster"), id="past-the-end"),
        pytest.param(PLAIN, FILE_SIZE | 1, PAST.format("a data cluster"), id="zero-past-the-end"),
        *(
            pytest.param(PLAIN, AT | 1 << bit, "an L2 entry has reserved bits set", id=f"bit-{bit}")
            for bit in (1, 8, 56, 61)
        ),
        pytest.param(OLD, AT | 1, "an L2 entry has reserved bits set", id="zero-flag-in-version-2"),
        pytest.param(
            PLAIN, COMPRESSED, "a compressed cluster lies in the header or outside the file", id="compressed-at-0"
        ),
        pytest.param(
            PLAIN,
            COMPRESSED | 65535,
            "a compressed cluster lies in the header or outside the file",
            id="compressed-in-cluster-0",
        ),
        pytest.param(
            PLAIN,
            COMPRESSED | FILE_SIZE,
            "a compressed cluster lies in the header or outside the file",
            id="compressed-past-the-end",
        ),
    ],
)
def test_bad_entries_are_refused(geometry, entry, message):
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        entries.check_l2(words(0, AT, entry), geometry, FILE_SIZE)


@pytest.mark.parametrize(
    ("entry", "bitmap", "message"),
    [
        pytest.param(AT | 1, 0, "an L2 entry has reserved bits set", id="zero-flag"),
        pytest.param(AT, 1 | 1 << 32, "a subcluster is marked both allocated and zero", id="both"),
        pytest.param(
            0,
            1 << 31,
            "a subcluster is marked allocated in a cluster that is not allocated",
            id="allocated-nowhere",
        ),
    ],
)
def test_bad_subclusters_are_refused(entry, bitmap, message):
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        entries.check_l2(words(0, 0, entry, bitmap).reshape(2, 2), EXTENDED, FILE_SIZE)


def test_a_compressed_cluster_with_extended_l2_has_an_empty_bitmap():
    packed = entries.compressed_entry(AT, 513, EXTENDED)
    table = words(packed, 0, 2 * AT, 0).reshape(2, 2)
    assert entries.check_l2(table, EXTENDED, FILE_SIZE) == 513 + 65536


def test_check_l2_counts_what_the_file_must_hold():
    packed = [entries.compressed_entry(AT + at, length, PLAIN) for at, length in ((0, 1), (1, 511), (512, 1000))]
    table = words(0, 1, COPIED | AT, 2 * AT, AT | 1, *packed)
    assert entries.check_l2(table, PLAIN, FILE_SIZE) == 3 * 65536 + 1 + 1 + 513


@given(st.integers(1, 65536), st.integers(0, 511))
def test_what_a_compressed_cluster_must_take_is_no_more_than_it_takes(length, within):
    entry = entries.compressed_entry(AT + within, length, PLAIN)
    assert length - 511 <= entries.check_l2(words(entry), PLAIN, FILE_SIZE) <= length


def test_check_l1_gives_the_tables_in_order():
    table = words(COPIED | 2 * AT, 0, AT, 0)
    assert entries.check_l1(table, PLAIN, FILE_SIZE).tolist() == [2 * AT, AT]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        pytest.param(AT, "one L2 table is used for two parts of the disk", id="twice"),
        pytest.param(COPIED | AT, "one L2 table is used for two parts of the disk", id="twice-with-another-flag"),
        pytest.param(COPIED, "an L2 table overlaps the header", id="on-the-header"),
        pytest.param(2 * AT + 512, "an L2 table is not aligned to the cluster size", id="misaligned"),
        pytest.param(FILE_SIZE, PAST.format("an L2 table"), id="past-the-end"),
        *(
            pytest.param(2 * AT | 1 << bit, "an L1 entry has reserved bits set", id=f"bit-{bit}")
            for bit in (0, 8, 56, 62)
        ),
    ],
)
def test_bad_l1_entries_are_refused(entry, message):
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        entries.check_l1(words(AT, 0, entry), PLAIN, FILE_SIZE)


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=8), st.integers(0, 1 << 57))
def test_any_words_are_accepted_or_refused(values, file_size):
    for geometry in (PLAIN, OLD, EXTENDED):
        table = words(*values[: len(values) // 2 * 2])
        table = table.reshape(-1, 2) if geometry.extended_l2 else table
        for check in (entries.check_l1, entries.check_l2):
            with contextlib.suppress(FormatError):
                check(table if check is entries.check_l2 else table.reshape(-1), geometry, file_size)
        origin, address = entries.granules(table, geometry)
        assert len(origin) == len(address) == len(table) * geometry.granules
        assert (address >= 0).all()


REFCOUNT_TABLES = {
    "twice": ([AT, AT], "one refcount block is used for two parts of the file"),
    "misaligned": ([AT + 512], "a refcount block is not aligned to the cluster size"),
    "reserved": ([AT | 1], "a refcount table entry has reserved bits set"),
    "past-the-end": ([FILE_SIZE], PAST.format("a refcount block")),
}


@pytest.mark.parametrize(("table", "message"), REFCOUNT_TABLES.values(), ids=REFCOUNT_TABLES)
def test_bad_refcount_tables_are_refused(table, message):
    with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
        entries.check_refcount_table(words(*table), PLAIN, FILE_SIZE)
