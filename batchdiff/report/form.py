"""The forms of a report and the orders of its guests, by the names that ``show`` takes."""

from __future__ import annotations

import enum

WIDTH = 100
"""The width of sentences that do not go to a terminal, in cells."""


class Form(enum.StrEnum):
    """The form of a report."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"
    CSV = "csv"


class Order(enum.StrEnum):
    """What the guests of a report are sorted by: names ascending, all else descending."""

    SAVED = "saved"
    NAME = "name"
    SHARE = "share"
    ALLOCATED = "allocated"
    OVERLAY = "overlay"
