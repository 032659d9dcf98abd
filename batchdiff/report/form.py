"""The forms of a report, by the names that ``show --format`` takes; ``plan.forms`` has the function for each."""

from __future__ import annotations

import enum

WIDTH = 100
"""The width of a report that does not go to a terminal, in cells."""


class Form(enum.StrEnum):
    """The form of a report."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
