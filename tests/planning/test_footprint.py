"""What an overlay's data takes on the disk, predicted from the guest's own holes and never written parts."""

import os
import tracemalloc

import notation
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from notation import run
from oracle import source

from batchdiff.extents import Kind, from_kinds, from_runs
from batchdiff.image.opening import open_image
from batchdiff.planning.footprint import footprint
from batchdiff.units import KIB, MIB


def data_bytes(path, runs, granule):
    with open_image(source(path)) as image:
        found = footprint(image, from_runs([(*run_, Kind.DATA) for run_ in runs]), granule, shares=False)
    return found.data_bytes


def test_the_holes_of_a_guest(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "4k:A 1020k:- 4k:B 1020k:-")
    assert data_bytes(guest, [(0, 1)], MIB) == 4 * KIB
    assert data_bytes(guest, [(0, 2)], MIB) == 8 * KIB


def test_what_was_never_written_does_not_count_whoever_read_it(tmp_path):
    guest = tmp_path / "g.img"
    run("fallocate", "-l", "8M", str(guest))
    with guest.open("r+b") as file:
        for at in (1, 3, 5):
            file.seek(at * MIB)
            file.write(os.urandom(4 * KIB))
    assert data_bytes(guest, [(0, 4)], 2 * MIB) == 3 * 4 * KIB
    guest.read_bytes()
    assert data_bytes(guest, [(0, 4)], 2 * MIB) == 3 * 4 * KIB


def test_subclusters_smaller_than_a_block_take_whole_blocks_once(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "64k:A")
    assert data_bytes(guest, [(0, 1)], 512) == 4 * KIB
    assert data_bytes(guest, [(0, 1), (3, 1), (6, 2)], 512) == 4 * KIB
    assert data_bytes(guest, [(7, 2), (20, 1)], 512) == 3 * 4 * KIB


def test_the_end_of_the_disk_is_the_end_of_the_data(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "64k:A 512:B")
    assert data_bytes(guest, [(0, 2)], 64 * KIB) == 68 * KIB


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_blocks_are_those_that_any_granule_touches(tmp_path_factory, kinds):
    guest = tmp_path_factory.getbasetemp() / "footprint.img"
    guest.write_bytes(b"x" * 200 * 512)
    expected = {at // 8 for at, chosen in enumerate(kinds) if chosen}
    extents = from_kinds(np.array([Kind.DATA if chosen else Kind.SAME for chosen in kinds], dtype=np.uint8))
    with open_image(source(guest)) as image:
        assert footprint(image, extents, 512, shares=False).data_bytes == len(expected) * 4 * KIB


def test_many_pieces_take_no_memory(tmp_path, monkeypatch):
    guest = notation.write_raw(tmp_path / "g.img", " ".join(["4k:A 4k:-"] * 2000))
    extents = from_runs([(0, 4000, Kind.DATA)])
    peaks = []
    for at_once in (MIB * 64, 64 * KIB):
        monkeypatch.setattr("batchdiff.planning.footprint._AT_ONCE", at_once)
        with open_image(source(guest)) as image:
            tracemalloc.start()
            assert footprint(image, extents, 4 * KIB, shares=False).data_bytes == 2000 * 4 * KIB
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] / 4
