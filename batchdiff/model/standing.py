"""Where a guest stands, in words for people and scripts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuestStanding:
    """One guest of a plan. ``since``: ISO 8601 in UTC, empty where nothing has been done.

    ``step``: its last step, or ``planned``, ``skipped``, ``refused``. ``failure``: why the last run came no
    further. ``next``: what the next run of which command would do.
    """

    name: str
    step: str
    since: str
    failure: str
    next: str
