"""Plain data and lines from YAML, and what is refused on the way."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.errors import ManifestError
from batchdiff.manifest.text import yaml_lines
from batchdiff.manifest.text.problems import Problems, show_path
from batchdiff.manifest.text.yaml_lines import MAX_VALUES, parse_yaml
from batchdiff.quoting import show


@pytest.fixture(params=["libyaml", "python"])
def loader(request, monkeypatch):
    """Both of PyYAML's parsers: which of them there is depends on how it was built."""
    chosen = yaml.CSafeLoader if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(yaml_lines, "_LOADER", chosen)


pytestmark = pytest.mark.usefixtures("loader")


def parse(text: str):
    problems = Problems()
    return parse_yaml(text, "m.yaml", problems), problems


def problems_of(text: str) -> str:
    return parse(text)[1].report("m.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    return str(caught.value)


def test_every_value_has_the_line_of_its_key():
    data, problems = parse("# comment\na:\n  - b: 1\n    c:\n      2\n  - x\nd: {e: [1,\n  2]}\n")
    assert data == {"a": [{"b": 1, "c": 2}, "x"], "d": {"e": [1, 2]}}
    expected = {
        (): 2,
        ("a",): 2,
        ("a", 0): 3,
        ("a", 0, "b"): 3,
        ("a", 0, "c"): 4,
        ("a", 1): 6,
        ("d", "e"): 7,
        ("d", "e", 1): 8,
        ("d", "absent", 3): 7,
    }
    assert {where: problems.line(where) for where in expected} == expected


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~"])
def test_nothing_is_none(text):
    assert parse(text)[0] is None


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("64KiB", "64KiB"),
        ("5%", "5%"),
        ("2024-06-01", "2024-06-01"),
        ("2024-99-99", "2024-99-99"),
        ("=", "="),
        ("12", 12),
        ("0x10", 16),
        ("1.5", 1.5),
        ("yes", True),
        ("null", None),
        ("'12'", "12"),
        ("!!str 12", "12"),
    ],
)
def test_scalars(scalar, value):
    data, problems = parse(f"a: {scalar}\n")
    assert data == {"a": value}
    assert type(data["a"]) is type(value)
    assert not problems


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("a: 1\nb: 2\na: 3\n", "m.yaml:3: a: given twice; the first is on line 1"),
        ("x:\n  - {a: 1, a: 2}\n", "m.yaml:2: x[0].a: given twice; the first is on line 2"),
        ("5: a\n", 'm.yaml:1: the key "5" is not text; put it in quotes'),
        ("yes: a\n", 'm.yaml:1: the key "yes" is not text; put it in quotes'),
        ("? [a]\n: b\n", "m.yaml:1: a key must be text, not a list or a mapping"),
        (
            "a: !!python/object:os.system x\n",
            'm.yaml:1: a: the tag "!!python/object:os.system" has no meaning in a manifest',
        ),
        ("a: !secret {b: 1}\n", 'm.yaml:1: a: the tag "!secret" has no meaning in a manifest'),
        ("a: !!set {b}\n", 'm.yaml:1: a: the tag "!!set" has no meaning in a manifest'),
        ("a: !!binary aGk=\n", 'm.yaml:1: a: the tag "!!binary" has no meaning in a manifest'),
        ("a: !!int x\n", 'm.yaml:1: a: "x" is not a value that can be used here'),
        ("a: !!bool x\n", 'm.yaml:1: a: "x" is not a value that can be used here'),
        ("a: !!float ''\n", 'm.yaml:1: a: "" is not a value that can be used here'),
        ("a: 9223372036854775808\n", 'm.yaml:1: a: "9223372036854775808" is not a value'),
        ("a: 0x" + "f" * 5000 + "\n", 'm.yaml:1: a: "0xffff'),
        ("a: " + "9" * 5000 + "\n", 'm.yaml:1: a: "9999'),
        ("<<: 5\n", "m.yaml:1: the merge key << takes a mapping"),
    ],
)
def test_what_no_manifest_may_hold(text, report):
    assert problems_of(text).startswith(report)


def test_all_duplicates_are_reported():
    assert problems_of("a: 1\na: 2\nb: 1\nb: 2\na: 3\n").count("given twice") == 3


def test_merge_keys_give_what_is_absent():
    data, problems = parse("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 0}\nd: {<<: *a}\n")
    assert data["c"] == {"x": 0, "y": 2, "z": 4}
    assert data["d"] == {"x": 1, "y": 2}
    assert not problems


def test_an_aliased_value_has_the_line_of_its_definition():
    _, problems = parse("a: &a\n  x: 1\nb: *a\n")
    assert problems.line(("b",)) == 3
    assert problems.line(("b", "x")) == 2


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: [1\nb: 2\n", "m.yaml:1: not valid YAML: "),
        ("a: 1\n b: 2\n", "m.yaml:2: not valid YAML: "),
        ("a:\n\tb: 1\n", "m.yaml:2: not valid YAML: "),
        ("a: *nowhere\n", "m.yaml:1: not valid YAML: "),
        ("a: 1\n---\nb: 1\n", "m.yaml:2: not valid YAML: "),
        ('a: "\n', "m.yaml:"),
        ("a: 1\nb: \x01\n", 'm.yaml:2: YAML does not allow the character "\\x01"; delete it'),
        ("%YAML 9.0\n---\na\n", "m.yaml:"),
    ],
)
def test_syntax_errors_name_the_line(text, start):
    message = refusal(text)
    assert message.startswith(start)
    assert "\n" not in message


def bomb(*, levels: int, merge: bool = False) -> str:
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        several = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + ("{<<: [" + several + "]}" if merge else f"[{several}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [bomb(levels=10), bomb(levels=10, merge=True), bomb(levels=40)],
    ids=["aliases", "merge keys", "deep aliases"],
)
def test_a_billion_laughs_are_refused_quickly(text):
    start = time.process_time()
    assert f"more than {MAX_VALUES} keys and values, including those from aliases" in refusal(text)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "text",
    ["[" * 100, "a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "[" * 60 + "]" * 60],
)
def test_deep_and_endless_nesting_is_refused(text):
    assert "nested" in refusal(text) or "not valid YAML" in refusal(text)


def test_very_deep_nesting_does_not_crash_the_parser():
    assert "nest" in refusal("[" * 50_000 + "]" * 50_000)
    assert "nest" in refusal("{a: " * 5_000 + "}" * 5_000)
    assert "nest" in refusal("- " * 5_000)


def test_a_huge_list_is_refused_before_it_is_kept(monkeypatch):
    monkeypatch.setattr(yaml_lines, "MAX_VALUES", 1000)
    assert parse("[" + "1," * 900 + "]")[0] == [1] * 900
    assert "more than 1000 keys and values" in refusal("[" + "1," * 1001 + "]")


def test_paths_and_texts_stay_on_one_line():
    assert show_path(("guests", 1, "overlay", "cluster_size")) == "guests[1].overlay.cluster_size"
    assert show_path(("a\nb", 0)) == "a\\nb[0]"
    assert show("x\x1b[31m\u202e") == '"x\\x1b[31m\\u202e"'
    assert len(show("x" * 10_000)) < 250


@pytest.mark.parametrize(
    "text", ["1" + ":1" * 200_000, "0b" + "1" * 500_000, "1" * 200_000, "!!float 1" + "0" * 200_000]
)
def test_long_numbers_are_refused_at_once(text):
    began = time.process_time()
    assert "not a value that can be used" in problems_of(f"a: {text}\n")
    assert time.process_time() - began < 2  # seconds; the first one took half a minute


PIECES = ["a", "b", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ", ", "&x ", "*x", "<<", "!!int ", "!t ", '"', "'"]
PIECES += [
    "|",
    ">",
    "#",
    "%",
    "?",
    "1",
    "1.5",
    "~",
    "yes",
    "\t",
    "\\",
    "2024-01-01",
    "0x",
    "=",
    "---\n",
    "é",
    "\ufeff",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text())
def test_any_text_is_data_or_a_manifest_error(text):
    for chosen in (yaml.CSafeLoader, yaml.SafeLoader):
        yaml_lines._LOADER = chosen
        try:
            parse(text)
        except ManifestError as error:
            message = str(error)
            assert message.startswith("m.yaml")
