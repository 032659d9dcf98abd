"""Units that differ, found again within the coarser extents of a plan. Guards planning/scan/refine.py."""

from __future__ import annotations

import notation
import numpy as np
import pytest
from oracle import guest_bytes, source

from batchdiff.extents import Extents, Kind, empty, fold, from_kinds
from batchdiff.image.open import open_image
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.refine import refine_granules

TEMPLATE = "300k:A 4k:0 200k:B 1M:- 1536k:C 700k:D"
GUESTS = {
    "changed.img": "300k:A 8k:X 196k:B 100k:Y 924k:- 512:Z 1572352:C 100k:0 600k:D",
    "longer.img": "300k:A 4k:0 200k:B 1M:- 1536k:C 700k:D 3M:- 5632:E",
    "thick.qcow2": "280k:A 20k:W 4k:0 200k:B 1M:- 1000k:C 536k:0 700k:D 512k:V",
}


def differences(template: bytes, guest: bytes) -> Extents:
    """The units in which two disks differ, by definition."""
    kinds = []
    for at in range(0, len(guest), UNIT):
        one, other = (disk[at : at + UNIT].ljust(UNIT, b"\0") for disk in (template, guest))
        zero = not any(other)
        same = Kind.SAME_ZERO if zero else Kind.SAME
        kinds.append(same if one == other else Kind.ZERO if zero else Kind.DATA)
    return from_kinds(np.array(kinds, dtype=np.uint8))


def unequal(extents: Extents) -> list[int]:
    return [
        unit
        for first, count, kind in extents.runs()
        if kind in {Kind.DATA, Kind.ZERO}
        for unit in range(first, first + count)
    ]


@pytest.mark.parametrize("name", GUESTS)
def test_what_differs_is_found_in_granules_of_any_size(tmp_path, name):
    write = notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw
    paths = notation.write_raw(tmp_path / "template.img", TEMPLATE), write(tmp_path / name, GUESTS[name])
    with open_image(source(paths[0])) as template, open_image(source(paths[1])) as guest:
        disks = (guest_bytes(template, 0, template.virtual_size), guest_bytes(guest, 0, guest.virtual_size))
        expected = differences(*disks)
        for granule in (UNIT, 16 * UNIT, 64 * UNIT, 512 * UNIT):
            found = refine_granules(template, guest, fold(expected, granule // UNIT), granule)
            assert unequal(found) == unequal(expected), granule
        in_sectors = Extents(expected.first * 8, expected.count * 8, expected.kind)
        assert unequal(refine_granules(template, guest, in_sectors, 512)) == unequal(expected)
        assert len(refine_granules(template, guest, empty(), UNIT)) == 0


def test_nothing_is_read_between_the_granules(tmp_path):
    """Equal parts of an older plan count as equal."""
    template = notation.write_raw(tmp_path / "template.img", "30M:A")
    guest = notation.write_raw(tmp_path / "guest.img", "30M:B")
    one = from_kinds(np.array([0, 0, 3, 0, 0, 1], dtype=np.uint8))
    with open_image(source(template)) as ours, open_image(source(guest)) as theirs:
        found = refine_granules(ours, theirs, one, 64 * UNIT)
    assert unequal(found) == [*range(128, 192), *range(320, 384)]
