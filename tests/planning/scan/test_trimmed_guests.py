"""Guests that were trimmed where the template has data: what a hole costs, and that it is found exactly."""

import sys

import naive
import notation
import pytest
from oracle import recorded
from scan_jobs import scan_job

from batchdiff.planning.scan.compare import WINDOW
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.units import KIB

WINDOWS = RANGE // WINDOW
TEMPLATE = " ".join(["12k:A 500k:-"] * WINDOWS)


def calls_of(work):
    """How many functions, of Python and of C, are called while something runs."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def template(tmp_path):
    return notation.write_raw(tmp_path / "template.img", TEMPLATE)


def calls_for(template, folder, guests):
    paths = [notation.write_raw(folder / f"{guests}-{number}.img", "64M:-") for number in range(guests)]
    scanner = scan_job(template, *map(recorded, paths)).open()
    try:
        scanner.scan(0)  # finds out how many windows are mapped at once
        return calls_of(lambda: scanner.scan(0))
    finally:
        scanner.close()


def test_a_guest_that_is_all_holes_costs_no_calls_for_each_window(template, tmp_path):
    few, many = (calls_for(template, tmp_path, guests) for guests in (2, 12))
    assert (many - few) / 10 < WINDOWS  # it was 3,800 while each hole was looked at


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize(
    "guest",
    [
        "64M:-",
        f"12k:A 500k:- 512k:0 {64 * 1024 - 1024}k:-",
        " ".join(["12k:A 500k:-", "512k:-"] * (WINDOWS // 2)),
        " ".join(["512k:-", "4k:- 8k:A 500k:-", "512k:-", "4k:B 508k:-"] * (WINDOWS // 4)),
        f"{63 * 1024}k:- 1M:0 512:A",
    ],
)
def test_windows_that_are_holes_and_others_side_by_side(template, tmp_path, guest, sharing):
    path = notation.write_raw(tmp_path / "guest.img", guest)
    scanner = scan_job(template, recorded(path), sharing=sharing).open()
    try:
        found = scanner.scan(0).differences[0]
    finally:
        scanner.close()
    expected = naive.differences(template.read_bytes(), path.read_bytes())
    for cluster_size in (4 * KIB, 64 * KIB, 2048 * KIB):
        within = [run for run in naive.to_write(expected, cluster_size) if run[0] * cluster_size < RANGE]
        assert naive.to_write(found, cluster_size) == within
