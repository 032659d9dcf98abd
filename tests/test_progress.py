"""Guards progress.py."""

import threading

import pytest
from clocks import Clock

from batchdiff.progress import Meter, Pace, Phase, summing

WRITE, VERIFY = Phase.WRITE, Phase.VERIFY


def metered(every=0.0):
    clock, seen = Clock(), []
    return Meter(seen.append, every=every, clock=clock.monotonic), clock, seen


def test_the_total_is_known_at_the_start_and_all_is_done_at_the_end():
    meter, clock, seen = metered()
    meter.expect("a", WRITE, 10)
    meter.expect("a", VERIFY, 100)
    meter.expect("b", VERIFY, 50)
    meter.begin()
    clock.sleep(1)
    meter.reach("a", WRITE, 10)
    clock.sleep(1)
    meter.reach("a", VERIFY, 40)
    meter.settle("a")
    meter.end()
    assert [(each.run.done, each.run.total) for each in seen] == [
        (0, 160), (10, 160), (50, 160), (110, 160), (160, 160),
    ]  # fmt: skip
    assert [each.is_edge for each in seen] == [True, False, False, False, True]
    of_guest = seen[2].of_guest
    assert (seen[2].guest, seen[2].phase, of_guest.done, of_guest.total) == ("a", VERIFY, 50, 110)


def test_bytes_that_needed_no_work_are_done_but_do_not_count_for_the_pace():
    """An hour's work of an earlier run, found in a checkpoint, must not promise an end in a second."""
    meter, clock, seen = metered()
    meter.expect(None, Phase.SCAN, 1000)
    meter.reach(None, Phase.SCAN, 900, worked=False)
    meter.begin()
    assert seen[-1].run == Pace(900, 1000, None, None)
    clock.sleep(5)
    meter.reach(None, Phase.SCAN, 950)
    assert seen[-1].run == Pace(950, 1000, 10.0, 5.0)


def test_a_total_that_grows():
    """A sample turns out to be too small, so there is more to read than was foreseen."""
    meter, _, seen = metered()
    meter.lengthen(None, Phase.SCAN, 100)
    meter.begin()
    meter.reach(None, Phase.SCAN, 100)
    meter.lengthen(None, Phase.SCAN, 150)
    meter.lengthen(None, Phase.SCAN, 120)
    meter.reach(None, Phase.SCAN, 130)
    assert [(each.run.done, each.run.total) for each in seen] == [(0, 100), (100, 100), (130, 150)]


def test_a_retry_takes_nothing_back():
    meter, _, seen = metered()
    meter.expect("a", WRITE, 100)
    meter.begin()
    for done in (80, 0, 40, 90, 200):
        meter.reach("a", WRITE, done)
    assert [each.run.done for each in seen] == [0, 80, 80, 80, 90, 100]


def test_work_that_is_expected_twice_counts_once_and_what_nobody_expected_is_only_named():
    meter, _, seen = metered()
    meter.expect("a", VERIFY, 10)
    meter.begin()
    meter.expect("a", VERIFY, 10)
    meter.reach("b", VERIFY, 7)
    assert (seen[-1].guest, seen[-1].run.done, seen[-1].run.total) == ("b", 0, 10)
    meter.expect("a", Phase.REBUILD, 5)  # what could not be foreseen
    meter.tick()
    assert (seen[-1].run.total, meter.reached("a", VERIFY)) == (15, 0)


def test_images_are_opened_before_there_are_bytes_to_count():
    """The rate of the bytes does not include that time; the time since the first reading does."""
    meter, clock, seen = metered()
    meter.open(0, 40)
    clock.sleep(2)
    meter.open(10, 40)
    assert [(each.phase, each.openings, each.is_edge) for each in seen] == [
        (Phase.OPEN, Pace(0, 40, None, None), True),
        (Phase.OPEN, Pace(10, 40, 5.0, 6.0), False),
    ]
    assert not meter.has_begun
    meter.expect(None, Phase.SCAN, 100)
    meter.reach(None, Phase.SCAN, 20, worked=False)
    meter.begin()
    assert meter.has_begun
    clock.sleep(1)
    meter.reach(None, Phase.SCAN, 60)
    assert (seen[-1].run, seen[-1].openings) == (Pace(60, 100, 40.0, 1.0), None)
    assert seen[-1].seconds_elapsed == 3
    meter.end()
    assert [each.is_edge for each in seen] == [True, *[False] * (len(seen) - 2), True]


def test_images_that_were_opened_need_not_be_read():
    meter, _, seen = metered()
    meter.open(0, 40)
    meter.end()
    assert (seen[-1].phase, seen[-1].openings, seen[-1].run.percent, seen[-1].is_edge) == (None, None, 100.0, True)


def test_a_command_that_is_cut_short_does_not_claim_to_be_done():
    meter, _, seen = metered()
    meter.cut_short()
    assert seen == []
    meter.expect("a", VERIFY, 10)
    meter.begin()
    meter.reach("a", VERIFY, 3)
    meter.cut_short()
    assert (seen[-1].run.done, seen[-1].run.percent, seen[-1].is_edge) == (3, 30.0, True)


def test_a_command_with_nothing_to_do_begins_and_ends():
    meter, _, seen = metered()
    meter.end()
    assert [(each.run.percent, each.is_edge) for each in seen] == [(100.0, True)] * 2


@pytest.mark.parametrize(
    ("done", "total", "percent"), [(0, 3, 0.0), (999_999, 1_000_000, 99.9), (1, 3, 33.3), (3, 3, 100)]
)
def test_percent_is_rounded_down(done, total, percent):
    assert Pace(done, total, None, None).percent == percent


def test_reports_cost_next_to_nothing():
    """However often the work reports: at most one reading a second, besides the first and the last."""
    meter, clock, seen = metered(every=1.0)
    meter.expect("a", VERIFY, 100_000)
    meter.begin()
    for done in range(100_000):
        clock.now += 50_000  # 50 us; 5 s in all
        meter.reach("a", VERIFY, done)
        meter.tick()
    meter.end()
    assert len(seen) == 1 + 5 + 1
    assert [round(each.seconds_elapsed) for each in seen] == [0, 1, 2, 3, 4, 5, 5]


def test_no_end_is_promised_while_savings_are_calculated():
    meter, clock, seen = metered()
    meter.expect(None, Phase.SCAN, 10)
    meter.begin()
    clock.sleep(1)
    meter.reach(None, Phase.SCAN, 10)
    assert seen[-1].run.seconds_left == 0
    meter.reach("a", Phase.ASSESS, 0)
    assert (seen[-1].guest, seen[-1].run.percent, seen[-1].run.seconds_left) == ("a", 100, None)
    meter.end()
    assert seen[-1].run.seconds_left == 0


def test_threads_report_at_the_same_time():
    readings = []
    meter = Meter(readings.append, every=0)
    names = [f"g{number}" for number in range(8)]
    for name in names:
        meter.expect(name, VERIFY, 2000)
    meter.begin()

    def work(name):
        for done in range(2001):
            meter.reach(name, VERIFY, done)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [each.run.done for each in readings]
    assert done == sorted(done)
    assert done[-1] == 8 * 2000


def test_nobody_looks():
    meter = Meter()
    meter.expect("a", VERIFY, 10)
    meter.begin()
    meter.reach("a", VERIFY, 10)
    meter.end()
    assert meter.reached("a", VERIFY) == 10


def test_a_sum():
    seen = []
    add = summing(seen.append)
    for more in (1, 2, 3):
        add(more)
    assert seen == [1, 3, 6]
