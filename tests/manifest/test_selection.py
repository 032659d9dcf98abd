"""A manifest that is read for some of its guests."""

from __future__ import annotations

import os

import pytest
from manifest_texts import guests, make, raw, write

from batchdiff.errors import ManifestError, UsageError
from batchdiff.manifest import selection
from batchdiff.manifest.selection import read_selected

TEXT = guests(raw("clones/a.img"), raw("clones/b.img"))


@pytest.fixture
def path(folder):
    return write(TEXT)


def test_the_others_are_left_out(path):
    manifest = read_selected(path, ["b"])
    assert [guest.name for guest in manifest.guests] == ["b"]
    assert [guest.name for guest in manifest.left_out] == ["a"]


def test_only_overlays_of_chosen_guests_must_not_exist(path, folder):
    make("clones/a.qcow2")
    assert read_selected(path, ["b"]).left_out[0].name == "a"
    with pytest.raises(ManifestError) as caught:
        read_selected(path, ["a"])
    assert caught.value.what.startswith(f"{path}: ")
    assert f"{folder}/clones/a.qcow2" in caught.value.what


def test_an_overlay_that_a_restore_left(path, folder):
    """The message says how to remove it."""
    make("clones/a.qcow2")
    with pytest.raises(ManifestError) as caught:
        read_selected(path, ["a"], left={os.path.join(folder, "clones/a.qcow2")})
    assert "restore" in caught.value.what


def test_advice_for_a_match_of_a_glob(folder):
    """The manifest cannot give it another overlay as long as a glob lists it."""
    make("clones/a.qcow2")
    path = write(guests("{glob: clones/*.img, format: raw}"))
    with pytest.raises(ManifestError, match="`exclude` the guest, or list it by path and give it another"):
        read_selected(path, ["a"])


def test_a_guest_that_the_manifest_lacks(path):
    with pytest.raises(UsageError, match="the manifest has no guest called 'c' or 'd'") as caught:
        read_selected(path, ["c", "a", "d"])
    assert caught.value.remedy == "Its guests are: a, b."


def test_a_manifest_that_has_no_guests_left():
    assert selection._the_guests([]).startswith("The manifest has no guests now: its globs match only overlays")
