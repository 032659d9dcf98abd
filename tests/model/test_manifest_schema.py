"""Keys and values that no manifest may have, told in plain words."""

from __future__ import annotations

import pytest
from manifest_texts import HEAD, guests, problems, raw


@pytest.mark.parametrize("size", ["5", "0", "-65536", "4MiB", "256", "big", '""', "65537", "9" * 5000, ".5k"])
def test_cluster_sizes_that_are_none(folder, size):
    (problem,) = problems(guests(raw("clones/a.img", f", overlay: {{cluster_size: {size}}}")))
    assert problem.startswith("m.yaml:4: guests[0].overlay.cluster_size: ")
    assert "is no " in problem


@pytest.mark.parametrize(("size", "words"), [("8k", "not 8 KiB"), ("auto", "a fixed cluster_size")])
def test_extended_l2_needs_large_clusters(folder, size, words):
    item = raw("clones/a.img", f", overlay: {{cluster_size: {size}, extended_l2: true}}")
    (problem,) = problems(guests(item))
    assert problem.startswith("m.yaml:4: guests[0].overlay.extended_l2: needs a ")
    assert words in problem


def test_a_wrong_default_is_told_once_and_where_it_is(folder):
    head = HEAD + "defaults: {format: raw, overlay: {cluster_size: 3}}\n"
    (problem,) = problems(guests("path: clones/a.img", "path: clones/b.img", head=head))
    assert problem.startswith("m.yaml:3: defaults.overlay.cluster_size: 3 is no cluster size")


@pytest.mark.parametrize(
    "share", ["101%", "1.5", "50", "-1", "-5%", ".nan", ".inf", '"nan"', "inf%", "x", '""', "true"]
)
def test_minimum_savings_that_are_none(folder, share):
    (problem,) = problems(guests(raw("clones/a.img"), tail=f"minimum_savings: {share}\n"))
    assert problem.startswith("m.yaml:5: minimum_savings: ")


def test_a_number_of_percent_is_guessed(folder):
    (problem,) = problems(guests(raw("clones/a.img"), tail="minimum_savings: 5\n"))
    assert problem.endswith('5 is more than 100%; did you mean "5%"?')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retires: keep", 'retires: unknown key; did you mean "retire"?'),
        ("zzz: 1", "zzz: unknown key; known here: version, template, defaults, guests, retire"),
        ("retire: remove", 'retire: expected one of keep, quarantine, delete, found the text "remove"'),
        ("retire: quarantin", 'found the text "quarantin"; did you mean "quarantine"?'),
        ("retire:", "retire: expected one of keep, quarantine, delete, found nothing"),
        ("protect_template: 1", "protect_template: expected true or false, found the number 1"),
        ("minimum_savings: []", "minimum_savings: expected a number or a string, found a list"),
        ("allow_loss: snapshots", 'allow_loss: expected a list, found the text "snapshots"'),
        ("allow_loss: [snapshot]", 'found the text "snapshot"; did you mean "snapshots"?'),
        ("defaults: {overlay: {path: x}}", "defaults.overlay.path: only a guest can have one"),
        ("defaults: {path: x}", "defaults.path: unknown key"),
        ("defaults: {overlay: {cluster_size: true}}", "expected a whole number or a string, found true"),
        ("defaults: {overlay: {cluster_size: 1.5}}", "expected a whole number or a string, found the number 1.5"),
        ("defaults: {overlay: {extended_l2: 'yes'}}", 'expected true or false, found the text "yes"'),
        ("defaults:", "defaults: expected a mapping, found nothing"),
    ],
)
def test_schema_problems(folder, text, expected):
    (problem,) = problems(guests(raw("clones/a.img"), tail=text + "\n"))
    assert problem.startswith("m.yaml:5: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("{format: raw}", "guests[0]: a guest needs a path or a glob"),
        ("{path: a, glob: b}", "guests[0]: path and glob exclude each other; make two guests of them"),
        ("{glob: b, name: x}", "guests[0]: name goes with path, not with glob"),
        ("{glob: b, overlay: {path: x}}", "guests[0].overlay.path: only a guest with a path, not a glob"),
        ("{path: 5}", "guests[0].path: expected a string, found the number 5; put it in quotes"),
        ("{path: ''}", "guests[0].path: must not be empty"),
        ("{path: a, name: ''}", "guests[0].name: must not be empty"),
        ("{pth: a, path: b}", 'guests[0].pth: unknown key; did you mean "path"?'),
        ("{path: a, overlay: {clustersize: 1}}", 'overlay.clustersize: unknown key; did you mean "cluster_size"?'),
        ("{path: a, backing: [{path: x}]}", "guests[0].backing[0]: format is missing"),
        ("{path: a, backing: [{format: raw}]}", "guests[0].backing[0]: path is missing"),
        ("clones/a.img", 'guests[0]: expected a mapping, found the text "clones/a.img"'),
    ],
)
def test_schema_problems_of_a_guest(folder, item, expected):
    (problem,) = problems(guests(item))
    assert problem.startswith("m.yaml:4: ")
    assert expected in problem


def test_a_chain_of_201(folder):
    chain = ", ".join(["{path: x, format: qcow2}"] * 201)
    (problem,) = problems(guests(f"{{path: clones/c.qcow2, format: qcow2, backing: [{chain}]}}"))
    assert problem.endswith("guests[0].backing: at most 200 images may be in a chain")


def test_a_missing_template_format_has_a_hint(folder):
    (problem,) = problems(guests(raw("clones/a.img"), head="version: 1\ntemplate: {path: clones/c.qcow2}\n"))
    assert problem == (
        "m.yaml:2: template: format is missing; the file looks like qcow2, "
        "so if you trust where it came from, write `format: qcow2`"
    )


def test_missing_keys(folder):
    assert problems("version: 1\n") == ["m.yaml:1: template is missing", "m.yaml:1: guests is missing"]
    assert problems(HEAD + "guests: []\n") == ["m.yaml:3: guests: at least one guest is needed"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("guests: 5\n", "m.yaml:1: version is missing; begin the manifest with `version: 1`"),
        ("x: 1\nversion: 2\n", "m.yaml:2: version: expected 1, found the number 2; only version 1 can be read"),
        ("version: '1'\n", 'm.yaml:1: version: expected 1, found the text "1"; only version 1 can be read'),
        ("version: true\nx: 1\nx: 1\n", "m.yaml:1: version: expected 1, found true; only version 1 can be read"),
        ("[]", "m.yaml:1: expected a mapping with version, template and guests, found a list"),
        ("", "m.yaml:1: the manifest is empty; docs/manifest.md has an example"),
    ],
)
def test_the_version_is_looked_at_first(folder, text, problem):
    assert problems(text) == [problem]


def test_all_problems_of_all_kinds_at_once(folder):
    text = HEAD + (
        "guests:\n  - {path: clones/a.img, fromat: raw}\n  - {path: clones/x.img, format: raw}\n"
        "  - {path: t.img, format: raw, overlay: {path: same}}\n  - path: clones/b.img\n"
        "retire: never\nretire: keep\n"
    )
    found = problems(text)
    assert [problem.split(": ")[0] for problem in found] == [f"m.yaml:{line}" for line in (4, 5, 6, 6, 7, 8, 9)]
