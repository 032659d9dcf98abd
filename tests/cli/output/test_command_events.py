"""Guards cli/output/command_events.py."""

from batchdiff import __version__
from batchdiff.cli.output.command_events import progress_event, summary_event, version_event
from batchdiff.progress import Pace, Phase, Reading


def test_progress_of_a_guest():
    reading = Reading(
        Pace(10, 40, 1234.5, 29.96), 12.34567, Phase.VERIFY, "web01", Pace(5, 20, None, None), is_edge=False
    )
    assert progress_event(reading) == {
        "bytes_done": 10,
        "bytes_total": 40,
        "percent_done": 25.0,
        "bytes_per_second": 1234,
        "seconds_elapsed": 12.346,
        "seconds_remaining": 30.0,
        "step": "verify",
        "guest": "web01",
        "guest_bytes_done": 5,
        "guest_bytes_total": 20,
        "guest_seconds_remaining": None,
        "openings_done": None,
        "openings_total": None,
    }


def test_progress_before_the_bytes_are_known():
    """0 of 0 bytes is not 100 %."""
    reading = Reading(Pace(0, 0, None, None), 1.0, Phase.OPEN, None, None, False, Pace(3, 40, 3.0, 12.3))
    found = progress_event(reading)
    assert (found["percent_done"], found["openings_done"], found["openings_total"]) == (0.0, 3, 40)
    assert found["seconds_remaining"] is None


def test_progress_before_anything_is_known():
    found = progress_event(Reading(Pace(0, 40, None, None), 0.0, None, None, None, is_edge=True))
    assert {name for name, value in found.items() if value is None} == {
        "bytes_per_second", "seconds_remaining", "step", "guest",
        "guest_bytes_done", "guest_bytes_total", "guest_seconds_remaining", "openings_done", "openings_total",
    }  # fmt: skip


def test_version_and_summary():
    assert version_event("plan") | {"report_version": "", "plan_format_version": ""} == {
        "version": __version__,
        "verb": "plan",
        "events_version": "1.0",
        "report_version": "",
        "plan_format_version": "",
    }
    assert summary_event("apply", 1, 2.00049, {"converted": 3}) == {
        "verb": "apply",
        "exit_code": 1,
        "seconds_elapsed": 2.0,
        "guests": {"converted": 3},
    }
