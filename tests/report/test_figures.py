"""Numbers and times as people read them."""

import time

import pytest

from batchdiff.image.storage.exactness import Exactness
from batchdiff.report import figures
from batchdiff.report.figures import bounded_estimate, local_time, percent


@pytest.mark.parametrize(("part", "shown"), [(-0.0004, "0.0%"), (0.0004, "0.0%"), (-0.001, "-0.1%"), (None, "-")])
def test_there_is_no_negative_zero(part, shown):
    assert percent(part) == shown


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-07-02T03:04:05.999Z", "2026-07-02 05:04:05"),
        ("2026-01-02T23:30:00Z", "2026-01-03 00:30:00"),
        ("", ""),
        ("yesterday", "yesterday"),
    ],
)
def test_moments_are_local(monkeypatch, moment, shown):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert local_time(moment) == shown
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("count", "exactness", "shown"),
    [
        (2048, Exactness.EXACT, "~2 KiB"),
        (2048, Exactness.AT_MOST, "at most ~2 KiB"),
        (2048, Exactness.AT_LEAST, "at least ~2 KiB"),
        (-5, Exactness.AT_MOST, "nothing"),
        (0.4, Exactness.EXACT, "nothing"),
        (0, Exactness.AT_LEAST, "unknown"),
        (2048, Exactness.UNKNOWN, "unknown"),
    ],
)
def test_estimates_have_their_bounds(count, exactness, shown):
    assert bounded_estimate(count, exactness) == shown


def test_every_beginning_of_a_reason_can_be_found():
    """The first row that fits is used, so a longer one comes before the shorter ones that it begins with."""
    ones = [one for one, _ in figures._BEGINNINGS]
    hidden = [one for at, one in enumerate(ones) if any(map(one.startswith, ones[:at]))]
    assert hidden == []
