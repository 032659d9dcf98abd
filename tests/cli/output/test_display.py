"""Guards cli/output/display.py: events are printed once a second, however often the bar is drawn."""

import io
import itertools
import sys

import pytest
from clocks import Clock

from batchdiff.cli.output.display import Display
from batchdiff.progress import Phase


@pytest.mark.parametrize("bar", [False, True])
def test_events_come_at_the_start_once_a_second_and_at_the_end(monkeypatch, bar):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    clock, seen = Clock(), []
    display = Display(bar=bar, print_event=seen.append, clock=clock.monotonic)
    meter = display.meter()
    meter.expect("a", Phase.VERIFY, 1000)
    meter.begin()
    for done in range(1000):
        clock.sleep(0.01)
        meter.reach("a", Phase.VERIFY, done)
    meter.end()
    display.close()
    assert 1 + 9 + 1 <= len(seen) <= 1 + 10 + 1
    times = [each.seconds_elapsed for each in seen[:-1]]
    assert all(after - before >= 0.999 for before, after in itertools.pairwise(times))
    assert [each.is_edge for each in seen] == [True, *[False] * (len(seen) - 2), True]
    assert ("verifying" in sys.stderr.getvalue()) == bar


def test_nothing_is_shown_to_nobody():
    display = Display(bar=False, print_event=None)
    assert display.meter().show is None
    display.close()
