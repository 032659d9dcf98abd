"""Explanations of YAML syntax errors, in terms of the text and not of the parser."""

from __future__ import annotations

import yaml

from batchdiff.quoting import show

_INDENTED = (
    "this line is not aligned with those above (entries of one list or mapping start in the same column), or"
    " something follows a closing quote or bracket"
)
_OPEN_MAPPING = (
    'a { is not closed, a comma is missing, or text with a bracket in it needs quotes, as in {glob: "web[12].img"}'
)
_OPEN_LIST = (
    'a [ is not closed, a comma is missing, or text with a bracket in it needs quotes, as in ["web[12].img"]'
)
_ONE_DOCUMENT = "a second document begins here; a manifest is one document"

_REASONS = (
    # Part of a parser's message, and its meaning. PyYAML has two parsers with different messages.
    (
        "mapping values are not allowed",
        "a colon is not allowed here: check the indentation, or put the text in quotes",
    ),
    ("did not find expected '-' indicator", _INDENTED),
    ("expected <block end>", _INDENTED),
    ("did not find expected key", _INDENTED),
    ("could not find expected ':'", "a key needs a colon and a space after it, as in `format: raw`"),
    ("expected ',' or '}'", _OPEN_MAPPING),
    ("expected ',' or ']'", _OPEN_LIST),
    ("block scalar", "a value that begins with | or > is a block of text; put the value in quotes"),
    ("unknown escape character", "a backslash begins an escape in double quotes; use single quotes"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("found undefined alias", "* begins the name of an alias, and no anchor has that name; put a glob in quotes"),
    ("while scanning an anchor", "& begins the name of an anchor; put the text in quotes"),
    ("expected alphabetic or numeric", "* begins the name of an alias; put a glob in quotes"),
    ("expected a single document", _ONE_DOCUMENT),
    ("did not find expected <document start>", _ONE_DOCUMENT),
)
_AT_THE_BEGINNING = ("could not find expected ':'", "found unexpected end of stream", "expected ',' or")
"""Problems that the parser reports at the place where it gives up; the line to correct is where the quote, bracket
or key begins."""


def where_and_why(error: yaml.MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """Return the line to correct, counted from 1 (None if unknown), and the explanation."""
    problem = error.problem or ""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return None, _joined(error)
    line = text.split("\n")[mark.line] if mark.line < text.count("\n") + 1 else ""
    if "\t" in line[: len(line) - len(line.lstrip())] and not _is_in_brackets(error):
        return mark.line + 1, "YAML does not allow tabs for indentation; use spaces"
    if any(each in problem for each in _AT_THE_BEGINNING) and error.context_mark is not None:
        mark = error.context_mark
    if "cannot start any token" in problem and mark.column < len(line):
        found = line[mark.column]
        if found == "\t":
            return mark.line + 1, "a tab is not allowed here; use spaces"
        return mark.line + 1, f"a value cannot begin with {show(found)}; put it in quotes"
    said = _joined(error)
    return mark.line + 1, next((words for known, words in _REASONS if known in said), said)


def _is_in_brackets(error: yaml.MarkedYAMLError) -> bool:
    """Return True inside [ ] or { }, where lines are allowed to begin with tabs."""
    return "flow" in (error.context or "")


def _joined(error: yaml.MarkedYAMLError) -> str:
    return " ".join(part for part in (error.context, error.problem) if part)
