"""Guards planning/scan/range_progress.py: progress within ranges, by forked workers and by the planner itself."""

import os
from contextlib import contextmanager

import pytest

from batchdiff.planning.scan import range_progress
from batchdiff.planning.scan.range_progress import RangeProgress
from batchdiff.planning.scan.workers import run_tasks


class Doing:
    """A job of tasks that ``work`` does."""

    def __init__(self, work):
        self.work = work

    @contextmanager
    def begin(self):
        yield self.work

    def describe(self, task):
        return f"doing task {task}"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(range_progress, "_BETWEEN_REPORTS", 0)


def test_bytes_are_counted_in_all_images_that_reach_so_far():
    seen = []
    progress = RangeProgress(100, lambda: seen.append(progress.scanned))
    progress.reach(2, 250, [1000, 230, 200, 90])
    progress.reach(2, 300, [1000, 230, 200, 90])
    assert seen == [50 + 30, 100 + 30]
    progress.end(3)
    assert progress.scanned == 130
    progress.end(2)
    assert progress.scanned == 0


def test_a_process_reports_only_now_and_then(monkeypatch):
    seen = []
    monkeypatch.setattr(range_progress, "_BETWEEN_REPORTS", 3600)
    progress = RangeProgress(100, lambda: seen.append(progress.scanned))
    for offset in (10, 20, 30):
        progress.reach(0, offset, [100])
    assert seen == []


def test_the_planner_sees_what_its_workers_report_while_it_waits_for_them():
    """Each task ends only once the planner has seen its progress, so a planner that only waits would never end."""
    read, write = os.pipe()
    progress = RangeProgress(100, lambda: pytest.fail("the planner scans nothing itself"))

    def work(number):
        progress.reach(number, 100 * number + 40, [1000])
        os.read(read, 1)
        return number

    def look():
        if progress.scanned == 80:
            os.write(write, b"..")

    assert sorted(run_tasks(Doing(work), [0, 1], workers=2, waiting=look)) == [0, 1]
    os.close(read)
    os.close(write)
