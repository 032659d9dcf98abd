"""The limit on the tables of all bitmaps together is not QEMU's, so its remedy is another one.

Guards qcow2/bitmaps.py.
"""

from __future__ import annotations

import struct

import pytest

from batchdiff.qcow2.bitmaps import bitmap_tables
from batchdiff.qcow2.faults import FormatError

CLUSTER, ENTRIES = 512, 1 << 20
SIZE = ENTRIES * CLUSTER * 8 * 512  # a bit for each sector


def directory(count):
    entries = [
        struct.pack(">QIIBBHI8s", CLUSTER, ENTRIES, 0, 1, 9, 1, 0, bytes([ord("a") + number]))
        for number in range(count)
    ]
    return b"".join(entries)


def test_tables_up_to_the_limit_are_accepted():
    assert bitmap_tables(directory(8), 8, CLUSTER, SIZE) == [(CLUSTER, ENTRIES)] * 8


def test_more_are_refused_with_the_way_to_remove_bitmaps():
    with pytest.raises(FormatError, match="the tables of its bitmaps take more than 64 MiB") as caught:
        bitmap_tables(directory(9), 9, CLUSTER, SIZE)
    assert "qemu-img bitmap --remove" in caught.value.remedy
    assert "QEMU cannot" not in caught.value.remedy
