"""Guards planning/scan/ranges_at_work.py: progress within ranges, by forked workers and by the planner itself."""

import itertools
import os

import pytest

from batchdiff.planning.scan import ranges_at_work
from batchdiff.planning.scan.ranges_at_work import RangesAtWork
from batchdiff.planning.scan.workers import run_tasks
from tests.planning.scan.test_scan_workers import Doing


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(ranges_at_work, "_BETWEEN_REPORTS", 0)


def test_bytes_are_counted_in_all_images_that_reach_so_far():
    seen = []
    at_work = RangesAtWork(100, lambda: seen.append(at_work.scanned))
    at_work.reach(2, 250, [1000, 230, 200, 90])
    assert seen == [50 + 30]
    at_work.reach(3, 301, [1000])
    at_work.reach(2, 300, [1000, 230, 200, 90])
    assert seen[1:] == [81, 131]
    at_work.end(2)
    assert at_work.scanned == 1


def test_a_process_reports_only_now_and_then(monkeypatch):
    seen = []
    monkeypatch.setattr(ranges_at_work, "_BETWEEN_REPORTS", 3600)
    at_work = RangesAtWork(100, lambda: seen.append(at_work.scanned))
    for offset in (10, 20, 30):
        at_work.reach(0, offset, [100])
    assert seen == [10]


def test_the_planner_sees_what_its_workers_report_while_it_waits_for_them():
    """Each task ends only once the planner has seen its progress, so a planner that only waits would never end."""
    read, write = os.pipe()
    calls = itertools.count()
    at_work = RangesAtWork(100, lambda: pytest.fail("the planner scans nothing itself"))

    def work(number):
        at_work.reach(number, 100 * number + 40, [1000])
        os.read(read, 1)
        return number

    def look():
        next(calls)
        if at_work.scanned == 80:
            os.write(write, b"..")

    assert sorted(run_tasks(Doing(work), [0, 1], workers=2, waiting=look)) == [0, 1]
    assert next(calls) >= 1
    os.close(read)
    os.close(write)
