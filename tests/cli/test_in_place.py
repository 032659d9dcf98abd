"""A plan whose overlays take the places of their guests."""

import json
import shutil

import notation
import pytest
from commands import GUESTS, MANIFEST, batchdiff
from oracle import assert_same

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
    assert "overlays in place of their guests" in " ".join(done.stdout.split())
    in_place.plan("--guest", "raw")


def test_the_numbers_are_those_of_overlays_beside_their_guests(fleet):
    fleet.plan_here()
    beside = fleet.document
    fleet.write_manifest(IN_PLACE)
    fleet.plan_here()
    for one, other in zip(beside["guests"], fleet.document["guests"], strict=True):
        assert one["savings"] == other["savings"]
        assert one["extents"] == other["extents"]
    assert beside["totals"] == fleet.document["totals"]


@pytest.mark.parametrize("verb", ["plan", "validate"])
def test_raw_guests_are_warned_of(in_place, verb):
    done = batchdiff(verb, "fleet.yaml", cwd=in_place.folder)
    paths = ", ".join(f"{in_place.folder}/{name}.img" for name in ("raw", "large", "same"))
    assert f"take the place of raw images: {paths}. A VM whose definition still has the format raw" in done.stderr


def test_qcow2_guests_are_not(in_place):
    done = in_place.plan("--guest", "thick")
    assert "still has the format raw" not in done.stderr


def test_a_plan_can_be_made_again_once_overlays_took_their_places(in_place):
    """A guest whose manifest still says raw is seen to be an overlay; nothing is read as qcow2 for that."""
    for name in ("raw.img", "thick.qcow2"):
        (in_place.folder / name).unlink()
        options = f"backing_file={in_place.folder}/template.img,backing_fmt=raw"
        notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(in_place.folder / name))
    in_place.plan("--detailed-exitcode", expect=10)
    verdicts = {guest["name"]: (guest["verdict"], guest["reason"]) for guest in in_place.document["guests"]}
    for name in ("raw", "thick"):
        verdict, reason = verdicts[name]
        assert (verdict, reason.partition(";")[0]) == ("skip", "it is already an overlay of this template")
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


def test_apply_puts_the_overlays_there(in_place):
    in_place.plan_here()
    in_place.apply("-q")
    for name, text in GUESTS.items():
        overlay = in_place.folder / name
        assert "No errors were found" in notation.run("qemu-img", "check", str(overlay))
        assert_same(notation.qemu_content(overlay, "qcow2"), notation.content(text))
        assert (in_place.folder / f"{name}.batchdiff-original").exists()
    in_place.plan("-q", "-o", "again.plan.json", "--detailed-exitcode")


def linked(fleet, link, *, backing_path="relative"):
    """The fleet's large guest, in a folder of its own and named by a link in another one."""
    for folder in ("disks", "vms/far"):
        (fleet.folder / folder).mkdir(parents=True)
    (fleet.folder / "large.img").rename(fleet.folder / "disks/lun7.img")
    (fleet.folder / link).symlink_to(fleet.folder / "disks/lun7.img")
    options = f"overlay: {{path: same, backing_path: {backing_path}}}"
    fleet.write_manifest(
        "version: 1\ntemplate: {path: template.img, format: raw}\nretire: quarantine\n"
        f"guests:\n  - {{path: {link}, format: raw, {options}}}\n"
    )
    return fleet


@pytest.mark.parametrize("verb", ["plan", "validate"])
def test_a_relative_name_that_the_vms_link_leads_elsewhere(fleet, verb):
    folder = linked(fleet, "vms/far/web01.img").folder
    before = fleet.names()
    done = batchdiff(verb, "fleet.yaml", cwd=folder, expect=3)
    said = " ".join(done.stderr.split())
    assert f'fleet.yaml:5: guests[0].path: "{folder}/vms/far/web01.img" is a symbolic link' in said
    assert f'through the link, QEMU would open "{folder}/vms/template.img", not the template. Write' in said
    assert "Write `backing_path: absolute`" in said
    assert fleet.names() == before


@pytest.mark.parametrize(("link", "how"), [("vms/web01.img", "relative"), ("vms/far/web01.img", "absolute")])
def test_qemu_sees_the_overlay_through_the_vms_link(fleet, link, how):
    folder = linked(fleet, link, backing_path=how).folder
    fleet.plan_here()
    fleet.apply("-q")
    aside = folder / "disks/lun7.img.batchdiff-original"
    assert (folder / link).is_symlink()
    shown = json.loads(
        notation.run("qemu-img", "info", "--output=json", "--backing-chain", "-f", "qcow2", str(folder / link))
    )
    assert [image["format"] for image in shown] == ["qcow2", "raw"]
    assert shown[0]["backing-filename"] == ("../template.img" if how == "relative" else f"{folder}/template.img")
    said = notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(aside), str(folder / link))
    assert "identical" in said
    batchdiff("restore", "fleet.plan.json", "--guest", "web01", cwd=folder)
    assert_same(notation.qemu_content(folder / link, "raw"), notation.content(GUESTS["large.img"]))
