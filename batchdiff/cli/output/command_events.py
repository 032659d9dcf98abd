"""The fields of events about a whole command (docs/scripting.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchdiff import __version__
from batchdiff.plan.plan import FORMAT_VERSION
from batchdiff.progress import Pace, Reading
from batchdiff.report.plan.json_form import REPORT_VERSION

EVENTS_VERSION = "1.0"
"""Within a major version, events and fields may be added, but none changes in meaning."""


def version_event(verb: str) -> dict[str, Any]:
    """Return the fields of the first event."""
    return {
        "version": __version__,
        "verb": verb,
        "events_version": EVENTS_VERSION,
        "report_version": REPORT_VERSION,
        "plan_format_version": ".".join(map(str, FORMAT_VERSION)),
    }


def progress_event(reading: Reading) -> dict[str, Any]:
    """Return the fields of a reading. None: unknown, or not applicable."""
    run, guest, openings = reading.run, reading.of_guest, reading.openings
    return {
        "bytes_done": run.done,
        "bytes_total": run.total,
        "percent_done": run.percent if openings is None else 0.0,
        "bytes_per_second": None if run.per_second is None else round(run.per_second),
        "seconds_elapsed": round(reading.seconds_elapsed, 3),
        "seconds_remaining": _left(run),
        "step": None if reading.phase is None else reading.phase.value,
        "guest": reading.guest,
        "guest_bytes_done": None if guest is None else guest.done,
        "guest_bytes_total": None if guest is None else guest.total,
        "guest_seconds_remaining": None if guest is None else _left(guest),
        "openings_done": None if openings is None else openings.done,
        "openings_total": None if openings is None else openings.total,
    }


def summary_event(verb: str, exit_code: int, seconds: float, guests: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of the last event. ``guests``: the number of guests, or files, by result."""
    return {"verb": verb, "exit_code": exit_code, "seconds_elapsed": round(seconds, 3), "guests": dict(guests)}


def _left(pace: Pace) -> float | None:
    return None if pace.seconds_left is None else round(pace.seconds_left, 1)
