"""Where images that rest on the guests of a plan may be."""

import dataclasses

import notation
import pytest
from plans import guest_plan, small_plan
from sidecars import write_sidecar
from small_fleet import manifest, write_fleet

from batchdiff.dependents.image_folders import folders_of_manifest, folders_of_plan
from batchdiff.image_source import ImageFormat, ImageSource


def test_folders_of_a_plan():
    guest = guest_plan(path="/srv/clones/web01.img", overlay_path="/srv/thin/web01.qcow2")
    low = ImageSource("/srv/low/a.qcow2", ImageFormat.QCOW2)
    guest = dataclasses.replace(guest, source=dataclasses.replace(guest.source, backing=(low,)))
    left_out = (ImageSource("/srv/left-out/db.img", ImageFormat.RAW),)
    plan = small_plan(guest, manifest_path="/etc/batchdiff/m.yaml", left_out=left_out)
    expected = ["/etc/batchdiff", "/srv/clones", "/srv/images", "/srv/left-out", "/srv/low", "/srv/thin"]
    assert folders_of_plan(plan) == expected


@pytest.mark.parametrize("damaged", [False, True])
def test_folders_that_a_sidecar_knows(tmp_path, damaged):
    write_fleet(tmp_path)
    found = manifest(tmp_path)
    chosen = dataclasses.replace(found, guests=found.guests[:1], left_out=found.guests[1:])
    assert folders_of_manifest(found) == folders_of_manifest(chosen) == ["/", str(tmp_path)]
    sidecar = write_sidecar(tmp_path / "template.img", "/srv/thin/a.qcow2", "relative", "/a\0b/c", "/\ud800/c")
    if damaged:
        sidecar.write_text("damaged")
    assert folders_of_manifest(found) == ["/", *([] if damaged else ["/srv/thin"]), str(tmp_path)]


def test_a_guest_left_out_has_folders_too(tmp_path):
    write_fleet(tmp_path)
    found = manifest(tmp_path)
    (tmp_path / "other").mkdir()
    source = ImageSource(str(notation.write_raw(tmp_path / "other" / "x.img", "4k:A")), ImageFormat.RAW)
    left_out = dataclasses.replace(found.guests[0], image=source)
    assert f"{tmp_path}/other" in folders_of_manifest(dataclasses.replace(found, left_out=(left_out,)))
