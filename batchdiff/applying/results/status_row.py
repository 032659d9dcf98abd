"""A row of `batchdiff status`, for people and scripts."""

from __future__ import annotations

from batchdiff.frozen import frozen


@frozen
class StatusRow:
    """The state of one guest of a plan.

    ``step``: its last step, or ``planned``, ``skipped`` or ``refused``. ``since``: ISO 8601 in UTC, or empty.
    ``next``: what to do, or ``nothing``, with an explanation.
    """

    name: str
    step: str
    since: str
    failure: str
    next: str
