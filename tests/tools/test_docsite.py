"""The documentation site lists each page once, in the index's order, and needs nothing from elsewhere."""

import re

from docsite.conf import ROOT, html_theme, navigation

INDEX = (ROOT / "docs" / "README.md").read_text()


def entries(tables: str) -> list[str]:
    return re.findall(r"<(.+)>$", tables, re.MULTILINE)


def test_every_page_is_in_the_navigation_once():
    pages = [path.stem for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    others = [f"/{path.stem}" for path in ROOT.glob("*.md")] + ["/manifests/README"]
    assert sorted(entries(navigation(INDEX))) == sorted(pages + others)


def test_it_has_the_kinds_of_the_index():
    kinds = re.findall(r"^:caption: (.+)$", navigation(INDEX), re.MULTILINE)
    assert kinds == [*re.findall(r"^## (.+)$", INDEX, re.MULTILINE), "The project"]


def test_a_page_and_its_title():
    tables = navigation("# Index\n\n## Tutorial\n\n- [A tour](tour.md): one [link](other.md)\n")
    assert "\n\nA tour <tour>\n```" in tables
    assert "other" not in tables


def test_the_theme_is_sphinx_s_own():
    """Alabaster loads no font and no script from elsewhere."""
    assert html_theme == "alabaster"


def test_every_example_manifest_is_listed():
    listed = re.findall(r"^\| \[(.+)\]\(\1\)", (ROOT / "manifests" / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "manifests").glob("*.yaml"))
