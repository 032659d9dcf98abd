"""``python -m bench.document bench.json PAGE``: insert the figures of a run into a page, between its two marks."""

from __future__ import annotations

import sys

from bench.report import from_json
from bench.tables import markdown

BEGIN, END = "<!-- figures of make bench -->", "<!-- end of the figures -->"


def with_figures(page: str, figures: str) -> str:
    """Return the page with new figures.

    :raises ValueError: the marks are missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{figures}\n{end}{after}"


def main() -> None:
    """Rewrite the page."""
    source, path = sys.argv[1:]
    with open(source, encoding="ascii") as file:
        figures = markdown(from_json(file.read()))
    with open(path, encoding="utf-8") as file:
        page = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(with_figures(page, figures))


if __name__ == "__main__":
    main()
