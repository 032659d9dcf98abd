"""Configure Sphinx to make the documentation site of the Markdown pages as they are; `make docs` runs it.

The index, docs/README.md, lists each page under its kind, for readers on a forge. The site's navigation is made of
these lists::

    ## How-to guides                         How-to guides
    - [Moving a pool](moving.md): ...   ->     Moving a pool
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INDEX = "docs/README"
OTHERS = """\
## The project

- [About batchdiff](/README.md)
- [Example manifests](/manifests/README.md)
- [Contributing](/CONTRIBUTING.md)
- [Changes](/CHANGELOG.md)
"""
"""The pages outside docs/, listed like the others."""

project = "batchdiff"
extensions = ["myst_parser"]
root_doc = INDEX
include_patterns = ["*.md", "docs/*.md", "manifests/*.md"]
# The anchors of a forge, so that a link to a heading leads there in both places.
myst_heading_anchors = 4

smartquotes = False  # `"at least"` is what a report prints

html_theme = "alabaster"
html_theme_options = {"description": "Full copies of a template as thin overlays"}
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html"]}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False


def navigation(index: str) -> str:
    """Return the index's lists as hidden tables of contents, one for each kind of page."""
    tables = []
    parts = re.split(r"^## (.+)$", f"{index}\n{OTHERS}", flags=re.MULTILINE)
    for kind, text in zip(parts[1::2], parts[2::2], strict=True):
        pages = re.findall(r"^- \[(.+?)\]\((.+?)\.md\)", text, re.MULTILINE)
        entries = "\n".join(f"{title} <{name}>" for title, name in pages)
        tables.append(f"```{{toctree}}\n:hidden:\n:caption: {kind}\n\n{entries}\n```\n")
    return "\n".join(tables)


def _add_navigation(_app: object, page: str, source: list[str]) -> None:
    if page == INDEX:
        source[0] += "\n" + navigation(source[0])


def setup(app: Any) -> None:  # noqa: ANN401 - Sphinx is not installed where types are checked
    """Connect the functions above to Sphinx's events."""
    app.add_lexer("jsonl", importlib.import_module("pygments.lexers").JsonLexer)  # Pygments comes with Sphinx
    app.connect("source-read", _add_navigation)
