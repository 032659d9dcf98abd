"""Small qcow2 files that claim much: what is nothing but zeros is told from the tables, in few words.

Guards image/qcow2_tables.py.
"""

import notation
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import guest_bytes, source

from batchdiff.image import qcow2_tables
from batchdiff.image.open import open_image
from batchdiff.image.qcow2_tables import L2Tables
from batchdiff.qcow2.entries import Origin, clusters_with_data, granules
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import GIB, MIB


@pytest.mark.parametrize("backing", [True, False])
def test_zeros_of_many_kinds_are_one_segment(tmp_path, backing):
    """Millions of subclusters can read as zeros, for one reason and the other in turn."""
    below = [notation.write_qcow2(tmp_path / "below.qcow2", "4M:-")] if backing else []
    named = {"backing": below[0], "backing_format": "qcow2"} if backing else {}
    guest = notation.write_qcow2(tmp_path / "a.qcow2", "4M:-", options="extended_l2=on", **named)
    notation.qemu_io(guest, *(f"write -z {at}k 2k" for at in range(0, 256, 4)), "write -P 1 1M 64k")
    with open_image(source(guest, *below)) as image:
        zeros = [segment for segment in image.segments(0, 4 * MIB) if segment.origin is Origin.ZERO]
    assert len(zeros) == 2


def test_the_next_data_is_looked_up_in_the_tables(tmp_path):
    """A table of 2 MiB covers half a TiB, in which there may be nothing."""
    guest = notation.write_qcow2(tmp_path / "a.qcow2", f"{600 * GIB}:-", options="cluster_size=2M")
    notation.qemu_io(guest, "write -z 0 4M", f"write -P 1 {300 * GIB} 64k")
    with open_image(source(guest)) as image:
        assert image.next_data(0) == 300 * GIB
        assert image.next_data(300 * GIB + 1) == 300 * GIB + 1
        assert image.next_data(300 * GIB + 2 * MIB) is None


def test_a_table_that_is_a_hole_maps_nothing(tmp_path):
    guest = notation.write_qcow2(tmp_path / "a.qcow2", f"{600 * GIB}:-", options="cluster_size=2M")
    notation.qemu_io(guest, "write -P 1 0 64k", "discard 0 2M")
    with open_image(source(guest)) as image:
        assert image.next_data(0) is None


words = st.builds(
    lambda host, flags, bitmap: (host << 16 | flags, bitmap),
    st.sampled_from([0, 1, 7]),
    st.sampled_from([0, 1, 1 << 62, 1 << 63]),
    st.sampled_from([0, 1, 1 << 31, 1 << 32, 0xFFFFFFFF << 32, 0xFFFFFFFF]),
)


@given(st.lists(words, min_size=1), st.booleans(), st.booleans())
def test_clusters_with_data_are_those_with_any_granule_of_it(table, extended, zero_flag):
    geometry = Geometry(65536, extended_l2=extended, zero_flag=zero_flag or extended)
    array = np.array(table, dtype=np.uint64)
    array = array if extended else array[:, 0]
    origin, _ = granules(array, geometry)
    stored = (origin == Origin.FILE) | (origin == Origin.COMPRESSED)
    expected = stored.reshape(-1, geometry.granules).any(axis=1)
    if extended:  # allocated in a cluster that is not: damaged, and refused before
        host = (array[:, 0] & np.uint64(0x40FFFFFFFFFFFE00)) != 0
        expected &= host
    assert clusters_with_data(array, geometry).tolist() == expected.tolist()


@given(st.dictionaries(st.integers(0, 60), st.integers(1, 1 << 50), max_size=20), st.integers(0, 61))
def test_l2_tables_are_found_by_their_index(there, index):
    chosen = sorted(there)
    tables = L2Tables(np.array(chosen, dtype=np.uint32), np.array([there[n] for n in chosen], dtype=np.int64))
    assert tables.at(index) == there.get(index, 0)
    assert list(tables.since(index)) == [(n, there[n]) for n in chosen if n >= index]


def test_an_l1_table_is_looked_through_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(qcow2_tables, "_L1_AT_ONCE", 3)
    path = notation.write_qcow2(
        tmp_path / "a.qcow2", "32k:A 96k:- 32k:B 64k:- 32k:C 32k:-", options="cluster_size=512"
    )
    with open_image(source(path)) as image:
        found = guest_bytes(image, 0, image.virtual_size)
    assert found == notation.content("32k:A 96k:- 32k:B 64k:- 32k:C 32k:-")
