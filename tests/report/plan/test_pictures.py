"""The paths of the report's pictures. Guards report/plan/pictures.py."""

import numpy as np

from batchdiff.report.plan.change_map import BINS, ChangeMap
from batchdiff.report.plan.pictures import MapPath, SizeBar, crowd_paths, map_paths, size_bars


def shares(**given):
    found = np.zeros(BINS)
    for place, share in given.items():
        found[int(place[1:])] = share
    return found


def test_each_strength_has_a_path_and_neighbours_are_one_rectangle():
    paths = map_paths(ChangeMap(shares(_0=0.01, _1=0.05, _2=0.051, _9=1.0), shares(_3=0.3)))
    assert paths == [
        MapPath("data1", "M0 0h2v7h-2z"),
        MapPath("data2", "M2 0h1v7h-1z"),
        MapPath("data4", "M9 0h1v7h-1z"),
        MapPath("zeros3", "M3 7h1v3h-1z"),
    ]


def test_the_smallest_change_is_seen():
    assert map_paths(ChangeMap(shares(_7=1e-9), shares())) == [MapPath("data1", "M7 0h1v7h-1z")]


def test_nothing_to_draw():
    assert map_paths(ChangeMap(shares(), shares())) == []
    assert crowd_paths(shares()) == []


def test_all_guests_fill_the_height():
    assert crowd_paths(shares(_399=1.0)) == [MapPath("data4", "M399 0h1v10h-1z")]


def test_bars_are_shares_of_the_largest():
    assert size_bars([(4096, 50), (65536, 200)], 65536) == [
        SizeBar(4096, 50, 25.0, False),
        SizeBar(65536, 200, 100.0, True),
    ]
    assert size_bars([(4096, 0)], None) == [SizeBar(4096, 0, 0.0, False)]
    assert size_bars([], None) == []
