"""A row of `batchdiff status`, for people and scripts."""

from __future__ import annotations

from batchdiff.frozen import frozen


@frozen
class StatusRow:
    """The state of one guest of a plan.

    ``step``: its last step, or ``planned``, ``skipped``, ``refused``. ``since``: the recorded time of the step or
    of a later failure, ISO 8601 in UTC; empty if there is none. ``failure``: why the last run failed; empty if it
    did not. ``next``: what to do next, or ``nothing``, with an explanation.
    """

    name: str
    step: str
    since: str
    failure: str
    next: str
