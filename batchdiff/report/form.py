"""The forms of a report and the orders of its guests, by the names that ``show`` takes."""

from __future__ import annotations

import enum

WIDTH = 100
"""The width of sentences in cells, unless a terminal's width is known."""


class Form(enum.StrEnum):
    """The form of a report."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"
    CSV = "csv"


class Order(enum.StrEnum):
    """The key by which the guests of a report are sorted: names ascending, everything else descending."""

    SAVED = "saved"
    NAME = "name"
    SHARE = "share"
    ALLOCATED = "allocated"
    OVERLAY = "overlay"
