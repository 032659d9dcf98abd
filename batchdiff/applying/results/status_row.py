"""A row of `batchdiff status`, for people and scripts."""

from __future__ import annotations

from batchdiff.frozen import frozen


@frozen
class StatusRow:
    """The state of one guest of a plan. ``since``: ISO 8601 in UTC, empty if nothing has been done yet.

    ``step``: its last step, or ``planned``, ``skipped``, ``refused``. ``failure``: why the last run stopped there.
    ``next``: what to do next, or ``nothing``, with an explanation.
    """

    name: str
    step: str
    since: str
    failure: str
    next: str
