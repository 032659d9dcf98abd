"""Names that QEMU or the filesystem cannot take: told when a manifest is read, not when a plan is applied."""

from __future__ import annotations

import os

import pytest
from manifest_texts import guests, make, problems, raw, read

LONGEST = os.pathconf("/tmp", "PC_NAME_MAX")


@pytest.mark.parametrize(
    ("name", "fits"),
    [(b"fold\xffer", True), (b"fold\ner", False), ("caf\u00e9 no\u00a0break".encode(), True)],
    ids=["no-utf8", "newline", "no-break"],
)
def test_the_folder_of_the_images(folder, monkeypatch, name, fits):
    inside = os.path.join(folder, os.fsdecode(name))
    os.mkdir(inside)
    monkeypatch.chdir(inside)
    make("t.img", "a.img")
    if fits:
        assert len(read(guests(raw("a.img"))).guests) == 1
    else:
        found = problems(guests(raw("a.img")))
        assert len(found) == 2  # the template and the guest, whose overlay is at the same place
        assert all("has a line break" in problem for problem in found)


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("length", [LONGEST - 19, LONGEST - 18, LONGEST])
def test_originals_that_would_get_too_long_a_name(folder, retire, length):
    name = "g" * (length - 4) + ".img"
    make(name)
    text = guests(raw(name, ", overlay: {path: thin.qcow2}"), tail=f"retire: {retire}\n")
    if retire == "keep" or length <= LONGEST - 19:
        assert len(read(text).guests) == 1
    else:
        (problem,) = problems(text)
        assert f"a name of {length + 19} bytes" in problem
        assert f"shorten its name by {length + 19 - LONGEST} byte" in problem


@pytest.mark.parametrize("length", [LONGEST - 19, LONGEST - 18])
def test_overlays_that_could_not_be_restored(folder, length):
    make("a.img")
    text = guests(raw("a.img", f", overlay: {{path: {'o' * length}}}"))
    if length + 19 <= LONGEST:
        assert len(read(text).guests) == 1
    else:
        (problem,) = problems(text)
        assert f"during a restore, would have a name of {length + 19} bytes" in problem


@pytest.mark.parametrize("length", [LONGEST - 24, LONGEST - 23])
def test_a_template_beside_which_nothing_could_be_noted(folder, length):
    make("a.img")
    name = "t" * length
    make(name)
    text = guests(raw("a.img")).replace("t.img", name)
    if length + 24 <= LONGEST:
        assert len(read(text).guests) == 1
    else:
        (problem,) = problems(text)
        assert f"a name of {length + 24} bytes" in problem


def test_overlays_that_would_get_too_long_a_name(folder):
    name = "\u00e9" * ((LONGEST - 3) // 2) + ".im"
    make(name)
    (problem,) = problems(guests(raw(name)))
    assert "the overlay" in problem
    assert f"the limit here is {LONGEST};" in problem
