"""A plan whose overlays take the places of their guests."""

import shutil

import notation
import pytest
from commands import MANIFEST, batchdiff

IN_PLACE = MANIFEST.replace(
    "defaults: {format: raw}", "retire: quarantine\ndefaults: {format: raw, overlay: {path: same}}"
).replace("overlay: {cluster_size", "overlay: {path: same, backing_path: relative, cluster_size")


@pytest.fixture
def in_place(fleet):
    fleet.write_manifest(IN_PLACE)
    return fleet


def test_the_plan_has_the_guests_own_paths(in_place):
    done = in_place.plan()
    for guest in in_place.document["guests"]:
        assert guest["overlay"]["path"] == guest["path"]
    assert "overlays in the place of their guests" in " ".join(done.stdout.split())
    in_place.plan("--guest", "raw")


def test_the_numbers_are_those_of_overlays_beside_their_guests(fleet):
    fleet.plan("-q")
    beside = fleet.document
    fleet.write_manifest(IN_PLACE)
    fleet.plan("-q")
    for one, other in zip(beside["guests"], fleet.document["guests"], strict=True):
        assert one["savings"] == other["savings"]
        assert one["extents"] == other["extents"]
    assert beside["totals"] == fleet.document["totals"]


@pytest.mark.parametrize("verb", ["plan", "validate"])
def test_raw_guests_are_warned_of(in_place, verb):
    done = batchdiff(verb, "fleet.yaml", cwd=in_place.folder)
    paths = ", ".join(f"{in_place.folder}/{name}.img" for name in ("raw", "large", "same"))
    assert f"take the place of raw images: {paths}. A VM whose definition still says raw" in done.stderr


def test_qcow2_guests_are_not(in_place):
    done = in_place.plan("--guest", "thick")
    assert "still says raw" not in done.stderr


def test_a_plan_can_be_made_again_once_overlays_took_their_places(in_place):
    """A guest whose manifest still says raw is seen to be an overlay; nothing is read as qcow2 for that."""
    for name in ("raw.img", "thick.qcow2"):
        (in_place.folder / name).unlink()
        options = f"backing_file={in_place.folder}/template.img,backing_fmt=raw"
        notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(in_place.folder / name))
    in_place.plan("--detailed-exitcode", expect=10)
    verdicts = {guest["name"]: (guest["verdict"], guest["reason"]) for guest in in_place.document["guests"]}
    overlay = ("skip", "it is already an overlay of this template")
    assert verdicts["raw"] == verdicts["thick"] == overlay
    assert verdicts["large"][0] == "convert"


def test_a_raw_guest_beside_its_overlay_is_read_whatever_it_looks_like(fleet):
    """Only where the overlay takes the guest's place can a raw guest be an overlay of before."""
    options = f"backing_file={fleet.folder}/template.img,backing_fmt=raw"
    forged = fleet.folder / "forged.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(forged))
    shutil.copy(fleet.folder / "template.img", fleet.folder / "raw.img")
    with (fleet.folder / "raw.img").open("r+b") as file:
        file.write(forged.read_bytes()[:65536])
    fleet.plan("-q", "--guest", "raw")
    assert fleet.document["guests"][0]["verdict"] == "convert"
