"""What is not YAML is explained in the words of whoever wrote it, on the line to correct."""

from __future__ import annotations

import pytest
import yaml

from batchdiff.errors import ManifestError
from batchdiff.manifest.text import yaml_lines
from batchdiff.manifest.text.problems import Problems

INDENT = (
    "this line is not aligned with those above (entries of one list or mapping start in the same column), or"
    " something follows a closing quote or bracket"
)
OPEN = "a %s is not closed, a comma is missing, or text with a bracket in it needs quotes, as in %s"
IN_BRACES, IN_BRACKETS = OPEN % ("{", '{glob: "web[12].img"}'), OPEN % ("[", '["web[12].img"]')
CASES = [
    ("a:\n\t- 1\n", 2, "YAML does not allow tabs for indentation; use spaces"),
    ("a:\n  - b: 1\n\t  c: 2\n", 3, "YAML does not allow tabs for indentation; use spaces"),
    ("a: @x\n", 1, 'a value cannot begin with "@"; put it in quotes'),
    ("a: {b: %x}\n", 1, 'a value cannot begin with "%"; put it in quotes'),
    ("a: 1\ng: *.img\n", 2, "* begins the name of an alias; put a glob in quotes"),
    ("g: *x\n", 1, "* begins the name of an alias, and no anchor has that name; put a glob in quotes"),
    ("a: {b: 1\nc: 2\n", 1, IN_BRACES),
    ("a: [b\nc: 2\n", 1, IN_BRACKETS),
    ('a: 1\nb: "x\nc: 2\n', 2, "a quote is not closed"),
    ("a:\n  - b: 1\n   c: 2\n", 3, INDENT),
    ("- a\nb: 1\n", 2, INDENT),
    ("a:\n  b: 1\n c: 2\n", 3, INDENT),
    ("a: b: c\n", 1, "a colon is not allowed here: check the indentation, or put the text in quotes"),
    ("a:\n  b: 1\n  c 2\n", 3, "a key needs a colon and a space after it, as in `format: raw`"),
    ('a: "b" .img\n', 1, INDENT),
    ("a: {glob: clones/[ab].img, b: c}\n", 1, IN_BRACES),
    ("a: & b.img\n", 1, "& begins the name of an anchor; put the text in quotes"),
    ("a: |b.img\n", 1, "a value that begins with | or > is a block of text; put the value in quotes"),
    ('a: "b\\q"\n', 1, "a backslash begins an escape in double quotes; use single quotes"),
    ("a: 1\n---\nb: 1\n", 2, "a second document begins here; a manifest is one document"),
]


@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader], ids=["libyaml", "python"])
@pytest.mark.parametrize(("text", "line", "reason"), CASES)
def test_reasons(monkeypatch, loader, text, line, reason):
    monkeypatch.setattr(yaml_lines, "_LOADER", loader)
    with pytest.raises(ManifestError) as caught:
        yaml_lines.parse_yaml(text, "m.yaml", Problems())
    assert str(caught.value) == f"m.yaml:{line}: not valid YAML: {reason}"


def test_a_tab_in_brackets_is_not_to_blame():
    with pytest.raises(ManifestError) as caught:
        yaml_lines.parse_yaml("a: [\n\t{b: 1} c]\n", "m.yaml", Problems())
    assert str(caught.value) == f"m.yaml:1: not valid YAML: {IN_BRACKETS}"
