"""The folders in which an image's extents and data files may be are resolved, inherited and checked."""

import os

import pytest
from manifest_texts import problems, read

HEAD = "version: 1\ntemplate: {path: t.img, format: raw, allow_folders: [x]}\n"
GUEST = "guests:\n  - {path: clones/a.img, format: raw%s}\n"


@pytest.fixture
def pools(folder):
    for name in ("x", "pool", "pool/deep"):
        os.mkdir(name)
    os.symlink("pool", "link")
    return folder


def folders(text):
    manifest = read(text)
    return manifest.template.allow_folders, manifest.guests[0].image.allow_folders


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ("", "", ()),
        ("defaults: {allow_folders: [pool]}\n", "", ("pool",)),
        ("defaults: {allow_folders: [pool]}\n", ", allow_folders: [x, pool/deep]", ("x", "pool/deep")),
        ("defaults: {allow_folders: [pool]}\n", ", allow_folders: []", ()),
        ("", ", allow_folders: [link/../pool, link/deep]", ("pool", "pool/deep")),
    ],
)
def test_resolved(pools, defaults, own, expected):
    template, guest = folders(HEAD + defaults + GUEST % own)
    assert template == (f"{pools}/x",)
    assert guest == tuple(f"{pools}/{name}" for name in expected)


def test_backing_files_have_their_own(pools):
    below = "{path: clones/b.img, format: raw, allow_folders: [x]}"
    head = f"version: 1\ntemplate: {{path: t.img, format: qcow2, backing: [{below}]}}\n"
    template = read(head + GUEST % "").template
    assert (template.allow_folders, template.backing[0].allow_folders) == ((), (f"{pools}/x",))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (", allow_folders: [missing]", "is not a folder"),
        (", allow_folders: [t.img]", "is not a folder"),
        (', allow_folders: ["a\\nb"]', "a line break"),
        (", allow_folders: [5]", "expected a string"),
        (", allow_folders: pool", "write `allow_folders: [pool]`"),
        (", allow_folder: [pool]", 'did you mean "allow_folders"?'),
    ],
)
def test_problems(pools, own, words):
    (problem,) = problems(HEAD + GUEST % own)
    assert "guests[0].allow_folder" in problem
    assert words in problem


def test_a_default_is_reported_once(pools):
    text = HEAD + "defaults: {allow_folders: [missing]}\n" + GUEST % "" + "  - {path: clones/b.img, format: raw}\n"
    (problem,) = problems(text)
    assert "defaults.allow_folders[0]" in problem
