"""The silence of workers, by made-up clocks. Guards planning/remote/heartbeats.py."""

from batchdiff.planning.remote.heartbeats import LONGEST_SILENCE, Heartbeats


def looks(heartbeats, times, last_seen):
    """The silent workers at each time; ``last_seen`` has the workers' reports at a time."""
    return [heartbeats.silent(last_seen(now), float(now)) for now in times]


def test_a_worker_that_stops_reporting_is_silent_after_a_while():
    """The other one reports; the scheduler's clock need not be this host's."""
    found = looks(Heartbeats(), range(0, 61, 2), lambda now: {"a": 1000.0 + min(now, 10), "b": 1000.0 + now})
    assert [bool(each) for each in found] == [now >= 10 + LONGEST_SILENCE for now in range(0, 61, 2)]
    assert set().union(*found) == {"a"}


def test_it_is_heard_of_again():
    heartbeats = Heartbeats()
    assert looks(heartbeats, range(0, 41, 2), lambda _now: {"a": 0.0})[-1] == {"a"}
    assert heartbeats.silent({"a": 41.0}, 42.0) == set()
    assert heartbeats.silent({"a": 41.0}, 44.0) == set()


def test_a_worker_that_left_and_came_back_begins_anew():
    heartbeats = Heartbeats()
    looks(heartbeats, range(0, 41, 2), lambda _now: {"a": 0.0})
    assert heartbeats.silent({}, 42.0) == set()
    assert heartbeats.silent({"a": 0.0}, 44.0) == set()


def test_time_in_which_this_process_or_the_scheduler_was_stopped_counts_little():
    """A worker is not silent if only this process did not look."""
    heartbeats = Heartbeats()
    heartbeats.silent({"a": 0.0}, 0.0)
    assert heartbeats.silent({"a": 0.0}, 3600.0) == set()
    assert heartbeats.silent({"a": 3600.0}, 3602.0) == set()
